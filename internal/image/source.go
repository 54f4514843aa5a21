package image

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	"github.com/runcvm/runcvm/internal/image/layer"
)

// source is a set of files that an image is read from: a directory or a tar.
type source interface {
	// open opens a file by its path in the source, with slashes.
	open(name string) (io.ReadCloser, error)
	// describe returns where such a file is, for people.
	describe(name string) string
}

// dirSource is a directory; nothing outside of it is reached, by symbolic links neither.
type dirSource struct{ root *os.Root }

func (d dirSource) open(name string) (io.ReadCloser, error) {
	f, err := d.root.Open(name)
	if err != nil {
		return nil, d.missing(name, err)
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file", d.describe(name))
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func (d dirSource) missing(name string, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s is missing: %w", d.describe(name), fs.ErrNotExist)
	}
	return err
}

func (d dirSource) describe(name string) string { return d.root.Name() + "/" + name }

// readSmall reads a whole file of at most maxJSON bytes.
func readSmall(src source, name string) ([]byte, error) {
	r, err := src.open(name)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	b, err := io.ReadAll(io.LimitReader(r, maxJSON+1))
	if err == nil && len(b) > maxJSON {
		err = fmt.Errorf("larger than %d bytes", maxJSON)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", src.describe(name), err)
	}
	return b, nil
}

// tarSource is a tar that lies uncompressed in a file.
type tarSource struct {
	file  *os.File
	name  string // of what the user gave
	files map[string]tarFile
}

// tarFile is where a file's content lies, or the path that it is a link to.
type tarFile struct {
	offset, size int64
	link         string
}

// maxArchiveFiles bounds the index of an archive; a layer has a few files in it.
const maxArchiveFiles = 100_000

// newTarSource makes an index of the tar.
func newTarSource(ctx context.Context, f *os.File, name string) (*tarSource, error) {
	t := &tarSource{file: f, name: name, files: map[string]tarFile{}}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	r := tar.NewReader(f) // seeks over contents
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return t, nil
		}
		if err != nil {
			return nil, fmt.Errorf("read the archive: %w", err)
		}
		if len(t.files) == maxArchiveFiles {
			return nil, fmt.Errorf("the archive has more than %d files", maxArchiveFiles)
		}
		key := path.Clean("/" + h.Name)
		switch h.Typeflag {
		case tar.TypeReg:
			// A header is read block by block, so the content begins where the file stands.
			at, err := f.Seek(0, io.SeekCurrent)
			if err != nil {
				return nil, err
			}
			t.files[key] = tarFile{offset: at, size: h.Size}
		case tar.TypeSymlink: // by docker save before version 25, for layers that images have in common
			// Only another entry of this index is looked up by it.
			t.files[key] = tarFile{link: path.Join(path.Dir(key), h.Linkname)} //nolint:gosec // G305: nothing is extracted
		case tar.TypeLink:
			t.files[key] = tarFile{link: path.Clean("/" + h.Linkname)}
		}
	}
}

func (t *tarSource) open(name string) (io.ReadCloser, error) {
	const maxLinks = 10
	key := path.Clean("/" + name)
	for range maxLinks {
		f, ok := t.files[key]
		if !ok {
			return nil, fmt.Errorf("%s is missing: %w", t.describe(name), fs.ErrNotExist)
		}
		if f.link == "" {
			return io.NopCloser(io.NewSectionReader(t.file, f.offset, f.size)), nil
		}
		key = f.link
	}
	return nil, fmt.Errorf("%s is a link that leads nowhere", t.describe(name))
}

func (t *tarSource) describe(name string) string { return t.name + ":" + name }

// kind is what an image is read from.
type kind int

const (
	kindLayout kind = iota
	kindDocker
	kindRoot
)

const dockerManifestFile = "manifest.json"

// kindOfDir says what a directory is.
func kindOfDir(root *os.Root) kind {
	regular := func(name string) bool {
		st, err := root.Stat(name)
		return err == nil && st.Mode().IsRegular()
	}
	switch {
	case regular("oci-layout"):
		return kindLayout
	case regular(dockerManifestFile) && !regular("etc/passwd"):
		return kindDocker
	}
	return kindRoot
}

// inArchive matches the first part of paths in a layout and in what docker save writes, now and in former versions. A root
// file system has another one soon.
var inArchive = lazily(`^(blobs|oci-layout|index\.json|manifest\.json|repositories|(sha256:)?[0-9a-f]{64}(\.json|\.tar|\.tar\.gz)?|)$`)

// kindOfTar says what a tar is, by the names in it; it reads no further than it must. r is the uncompressed tar.
func kindOfTar(r io.Reader) (kind, error) {
	t := tar.NewReader(r)
	found := kindRoot
	for entries := 0; ; entries++ {
		h, err := t.Next()
		if errors.Is(err, io.EOF) && entries == 0 {
			return 0, errors.New("it is neither a directory nor a tar, or the tar is empty")
		}
		if errors.Is(err, io.EOF) {
			return found, nil
		}
		if errors.Is(err, tar.ErrHeader) && entries == 0 {
			return 0, errors.New("it is neither a directory nor a tar")
		}
		if err != nil {
			return 0, fmt.Errorf("read the archive: %w", err)
		}
		name := strings.TrimPrefix(path.Clean("/"+h.Name), "/")
		first, _, _ := strings.Cut(name, "/")
		switch {
		case name == "oci-layout":
			return kindLayout, nil
		case name == dockerManifestFile:
			found = kindDocker // unless an oci-layout follows, which says more
		case !inArchive().MatchString(first):
			return kindRoot, nil
		}
	}
}

// read finds out what path is, and reads it.
func (in *importer) read(ctx context.Context, path, name string) (Image, error) {
	st, err := os.Stat(path)
	if err != nil {
		return Image{}, err
	}
	if !st.IsDir() {
		return in.readFile(ctx, path, name)
	}
	root, err := os.OpenRoot(path)
	if err != nil {
		return Image{}, err
	}
	defer root.Close()
	switch kindOfDir(root) {
	case kindLayout:
		return in.readLayout(ctx, dirSource{root}, path, name)
	case kindDocker:
		return in.readDocker(ctx, dirSource{root}, path, name)
	}
	return in.readRootDir(ctx, path, name)
}

// readFile reads a tar, which may be compressed.
func (in *importer) readFile(ctx context.Context, path, name string) (Image, error) {
	f, err := os.Open(path)
	if err != nil {
		return Image{}, err
	}
	defer f.Close()
	if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() {
		return Image{}, errors.Join(errors.New("it is neither a directory nor a regular file"), err)
	}
	plain, compression, err := layer.Decompress(f)
	if err != nil {
		return Image{}, err
	}
	k, err := kindOfTar(in.bounded(ctx, plain))
	if err = errors.Join(err, plain.Close()); err != nil {
		return Image{}, err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return Image{}, err
	}
	if k == kindRoot {
		return in.readRootTar(ctx, f, path, name)
	}
	if compression != layer.Plain {
		if f, err = in.unpack(ctx, f); err != nil {
			return Image{}, err
		}
		defer f.Close()
	}
	src, err := newTarSource(ctx, f, path)
	if err != nil {
		return Image{}, err
	}
	if k == kindLayout {
		return in.readLayout(ctx, src, path, name)
	}
	return in.readDocker(ctx, src, path, name)
}

// unpack decompresses an archive into a file without a name.
func (in *importer) unpack(ctx context.Context, r io.Reader) (*os.File, error) {
	plain, _, err := layer.Decompress(r)
	if err != nil {
		return nil, err
	}
	defer plain.Close()
	f, err := os.CreateTemp(in.dir.Name(), "archive-")
	if err != nil {
		return nil, err
	}
	_, err = io.Copy(f, in.bounded(ctx, plain))
	if err = errors.Join(err, os.Remove(f.Name())); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

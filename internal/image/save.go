package image

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// annotationName is containerd's annotation of an image's full name, which docker load reads too.
const annotationName = "io.containerd.image.name"

// layoutFile is a file of a layout: its content, or the open blob that has it.
type layoutFile struct {
	name string
	body []byte
	blob *os.File
	size int64
}

// saved is a layout that is to be written. Its blobs are open, so that they stay when an image is removed meanwhile.
type saved struct{ files []layoutFile }

func (l *saved) close() {
	for _, f := range l.files {
		if f.blob != nil {
			f.blob.Close()
		}
	}
}

// Save writes images as a tar of an OCI image layout, which docker load reads as well.
func (s *Store) Save(ctx context.Context, refs []string, w io.Writer) error {
	l, err := s.layout(ctx, refs)
	if err != nil {
		return err
	}
	defer l.close()
	return l.writeTar(ctx, w)
}

// SaveTo writes such a layout to a path: as a directory where the path is one, which must be empty, or ends in a slash, else
// as a tar. After an error nothing is there that was not there before.
func (s *Store) SaveTo(ctx context.Context, refs []string, path string) error {
	l, err := s.layout(ctx, refs)
	if err != nil {
		return err
	}
	defer l.close()
	st, err := os.Stat(path)
	switch {
	case err == nil && st.IsDir() || strings.HasSuffix(path, "/"):
		err = l.writeDir(ctx, filepath.Clean(path))
	case err == nil && !st.Mode().IsRegular():
		// A pipe or a device: written as it is.
		var f *os.File
		if f, err = os.OpenFile(path, os.O_WRONLY, 0); err == nil {
			err = errors.Join(l.writeTar(ctx, f), f.Close())
		}
	default:
		err = l.writeFile(ctx, path)
	}
	if err != nil {
		return fmt.Errorf("save to %s: %w", path, err)
	}
	return nil
}

// layout collects the files of a layout.
func (s *Store) layout(ctx context.Context, refs []string) (_ *saved, err error) {
	l := &saved{}
	defer func() {
		if err != nil {
			l.close()
		}
	}()
	index := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex}
	var docker []dockerImage
	have := map[digest.Digest]bool{}
	for _, ref := range refs {
		img, err := s.Get(ctx, ref)
		if err != nil {
			return nil, err
		}
		if _, ok := s.Disk(img); ok {
			return nil, fmt.Errorf("image %s was imported from a directory, so it is a disk and has no layers that others could read: "+
				"import a tar of the directory in its place: %w", img.Name, errdefs.ErrNotImplemented)
		}
		if err := l.add(s, img, have); err != nil {
			return nil, fmt.Errorf("image %s: %w", img.Name, err)
		}
		index.Manifests = append(index.Manifests, descriptor(img, l))
		docker = append(docker, dockerEntry(img))
	}
	for name, v := range map[string]any{
		ocispec.ImageIndexFile: index, dockerManifestFile: docker,
		ocispec.ImageLayoutFile: ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion},
	} {
		b, err := json.Marshal(v)
		if err != nil {
			return nil, err
		}
		l.files = append(l.files, layoutFile{name: name, body: b, size: int64(len(b))})
	}
	slices.SortFunc(l.files, func(a, b layoutFile) int { return strings.Compare(a.name, b.name) })
	return l, nil
}

func blobFile(d digest.Digest) string { return "blobs/sha256/" + d.Encoded() }

// add opens the blobs of an image that are not there yet.
func (l *saved) add(s *Store, img Image, have map[digest.Digest]bool) error {
	for _, d := range img.Blobs {
		if have[d] {
			continue
		}
		have[d] = true
		f, err := os.Open(s.blobPath(d))
		if err != nil {
			return fmt.Errorf("blob %s is gone, perhaps the image was removed: %w", d, err)
		}
		l.files = append(l.files, layoutFile{name: blobFile(d), blob: f})
		st, err := f.Stat()
		if err != nil {
			return err
		}
		l.files[len(l.files)-1].size = st.Size()
	}
	return nil
}

// descriptor is the index's of an image.
func descriptor(img Image, l *saved) ocispec.Descriptor {
	d := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: img.Digest, Platform: &ocispec.Platform{
		OS: img.Config.OS, Architecture: img.Config.Architecture, Variant: img.Config.Variant,
	}}
	var m struct {
		MediaType string `json:"mediaType"`
	}
	for _, f := range l.files {
		if f.name != blobFile(img.Digest) {
			continue
		}
		d.Size = f.size
		if b, err := io.ReadAll(io.NewSectionReader(f.blob, 0, min(f.size, maxJSON))); err == nil && json.Unmarshal(b, &m) == nil &&
			m.MediaType != "" {
			d.MediaType = m.MediaType
		}
	}
	d.Annotations = map[string]string{annotationName: fullName(img.Name)}
	if !strings.Contains(img.Name, "@") {
		d.Annotations[ocispec.AnnotationRefName] = img.Name[strings.LastIndexByte(img.Name, ':')+1:]
	}
	return d
}

// fullName is a local name with what Docker takes for granted.
func fullName(name string) string {
	first, _, ok := strings.Cut(name, "/")
	switch {
	case !ok:
		return "docker.io/library/" + name
	case !strings.ContainsAny(first, ".:") && first != "localhost":
		return "docker.io/" + name
	}
	return name
}

// dockerEntry is what docker load before version 25 reads.
func dockerEntry(img Image) dockerImage {
	e := dockerImage{Config: blobFile(img.Blobs[1]), Layers: []string{}}
	if !strings.Contains(img.Name, "@") {
		e.RepoTags = []string{img.Name}
	}
	for _, layer := range img.Layers {
		e.Layers = append(e.Layers, blobFile(layer.Digest))
	}
	return e
}

func (f layoutFile) reader(ctx context.Context) io.Reader {
	if f.blob == nil {
		return strings.NewReader(string(f.body))
	}
	return ctxReader{ctx, io.NewSectionReader(f.blob, 0, f.size)}
}

// writeTar writes the same bytes for the same images.
func (l *saved) writeTar(ctx context.Context, w io.Writer) error {
	t := tar.NewWriter(w)
	for _, dir := range []string{"blobs/", "blobs/sha256/"} {
		if err := t.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir, Mode: 0o755, ModTime: time.Unix(0, 0)}); err != nil {
			return err
		}
	}
	buf := make([]byte, 1<<20)
	for _, f := range l.files {
		h := &tar.Header{Typeflag: tar.TypeReg, Name: f.name, Mode: 0o444, Size: f.size, ModTime: time.Unix(0, 0)}
		if err := t.WriteHeader(h); err != nil {
			return err
		}
		if _, err := io.CopyBuffer(onlyWriter{t}, f.reader(ctx), buf); err != nil {
			return err
		}
	}
	return t.Close()
}

// writeFile writes the tar to a file that appears whole.
func (l *saved) writeFile(ctx context.Context, path string) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*.part")
	if err != nil {
		return err
	}
	defer func() {
		if err = errors.Join(err, f.Close()); err != nil {
			_ = os.Remove(f.Name()) // the other error is the cause
		}
	}()
	if err := l.writeTar(ctx, f); err != nil {
		return err
	}
	if err := errors.Join(f.Chmod(0o644), f.Sync()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// writeDir writes the layout into an empty directory, or makes it.
func (l *saved) writeDir(ctx context.Context, dir string) (err error) {
	files, err := os.ReadDir(dir)
	existed := err == nil
	switch {
	case err != nil && !errors.Is(err, os.ErrNotExist):
		return err
	case len(files) > 0:
		return errors.New("the directory is not empty")
	}
	if err := os.MkdirAll(filepath.Join(dir, "blobs", "sha256"), 0o755); err != nil {
		return err
	}
	defer func() {
		if err == nil {
			return
		}
		remove := []string{dir}
		if existed {
			remove = []string{filepath.Join(dir, "blobs"), filepath.Join(dir, ocispec.ImageIndexFile),
				filepath.Join(dir, ocispec.ImageLayoutFile), filepath.Join(dir, dockerManifestFile)}
		}
		for _, path := range remove {
			_ = os.RemoveAll(path) // the other error is the cause
		}
	}()
	for _, f := range l.files {
		if f.name == dockerManifestFile {
			continue // only for the archive
		}
		if err := writeLayoutFile(ctx, filepath.Join(dir, f.name), f); err != nil {
			return err
		}
	}
	return nil
}

func writeLayoutFile(ctx context.Context, path string, f layoutFile) error {
	out, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, f.reader(ctx))
	return errors.Join(err, out.Sync(), out.Close())
}

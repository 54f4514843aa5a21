package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/runcvm/runcvm/internal/filelock"
	"github.com/runcvm/runcvm/internal/image/layer"
	"github.com/runcvm/runcvm/internal/rootfs/tree"
)

// Store is a directory of images:
//
//	lock              flock: exclusive while blobs/ or names/ change
//	blobs/sha256/HEX  content, never changed
//	names/NAME.json   an Image, its name escaped; replaced by rename
//	tmp/XXXX/         what one import collects; it holds a flock on the directory as long as it lives
//	partial/HEX       the beginning of a blob, or all of it, of an image that is or was being pulled; who adds to it or reads it
//	                  holds a flock on it
type Store struct {
	// Limits bound the images that are taken in; to be set before the first import. The zero value stands for
	// tree.DefaultLimits.
	Limits tree.Limits

	dir string
}

// Open opens the store in dir, which is made when it is missing.
func Open(dir string) (*Store, error) {
	s := &Store{dir: dir}
	for _, d := range []string{s.path("blobs", "sha256"), s.path("names"), s.path("tmp"), s.path("partial")} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, fmt.Errorf("open image store: %w", err)
		}
	}
	return s, nil
}

// Dir returns the store's directory.
func (s *Store) Dir() string { return s.dir }

func (s *Store) path(parts ...string) string {
	return filepath.Join(append([]string{s.dir}, parts...)...)
}

func (s *Store) blobPath(d digest.Digest) string {
	return s.path("blobs", d.Algorithm().String(), d.Encoded())
}

func (s *Store) namePath(name string) string { return s.path("names", url.PathEscape(name)+".json") }

// lock takes the store's lock for a change; the caller closes the file.
func (s *Store) lock(ctx context.Context) (*os.File, error) { return s.lockAs(ctx, unix.LOCK_EX) }

// lockAs takes the lock exclusively, or with others who only want that nothing goes away.
func (s *Store) lockAs(ctx context.Context, how int) (*os.File, error) {
	f, err := os.OpenFile(s.path("lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock image store: %w", err)
	}
	if err := filelock.Wait(ctx, f, how); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock image store: %w", err)
	}
	return f, nil
}

// List returns all images, ordered by name.
func (s *Store) List(ctx context.Context) ([]Image, error) {
	files, err := os.ReadDir(s.path("names"))
	if err != nil {
		return nil, fmt.Errorf("list images: %w", err)
	}
	var images []Image
	for _, f := range files {
		if !strings.HasSuffix(f.Name(), ".json") {
			continue // being written
		}
		img, err := readImage(s.path("names", f.Name()))
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed meanwhile
		}
		if err != nil {
			return nil, err
		}
		images = append(images, img)
	}
	slices.SortFunc(images, func(a, b Image) int { return strings.Compare(a.Name, b.Name) })
	return images, ctx.Err()
}

func readImage(path string) (Image, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return Image{}, err
	}
	var img Image
	if err := json.Unmarshal(b, &img); err != nil {
		return Image{}, &damagedError{path, err}
	}
	return img, nil
}

// damagedError is of a record that cannot be read, as a disk that lost data has it.
type damagedError struct {
	path string
	err  error
}

func (e *damagedError) Error() string {
	return fmt.Sprintf("image record %s is damaged; import the image again: %v", e.path, e.err)
}

func (e *damagedError) Unwrap() error { return e.err }

// Get returns an image by name (without a tag it is ":latest"), by a repository's name with a digest, by the digest of its
// manifest with or without "sha256:", or
// by the beginning of that digest when it fits only one image. The error is errdefs.ErrNotFound and says what there is, or
// errdefs.ErrInvalidArgument when several images fit.
func (s *Store) Get(ctx context.Context, ref string) (Image, error) {
	name, nameErr := NormalizeName(ref)
	if nameErr == nil {
		img, err := readImage(s.namePath(name))
		if err == nil || !errors.Is(err, fs.ErrNotExist) {
			return img, err
		}
	}
	images, err := s.List(ctx)
	if err != nil {
		return Image{}, err
	}
	found := byDigest(images, ref)
	if base, d, ok := strings.Cut(name, "@"); ok {
		found = pulled(images, base, digest.Digest(d))
	}
	for _, img := range found {
		if img.Digest != found[0].Digest {
			return Image{}, fmt.Errorf("%w: %q fits %s and %s: give more digits", errdefs.ErrInvalidArgument, ref, found[0].Digest,
				img.Digest)
		}
	}
	if len(found) > 0 {
		return found[0], nil
	}
	if len(images) == 0 {
		return Image{}, fmt.Errorf("image %q: %w: there are no images; get one with `runcvm pull IMAGE` or `runcvm import PATH [NAME]`",
			ref, errdefs.ErrNotFound)
	}
	return Image{}, fmt.Errorf("image %q: %w: there are %s", ref, errdefs.ErrNotFound, names(images))
}

// byDigest returns the images whose digest begins with ref.
func byDigest(images []Image, ref string) []Image {
	var found []Image
	for _, img := range images {
		if hex := strings.TrimPrefix(ref, "sha256:"); hex != "" && strings.HasPrefix(img.Digest.Encoded(), hex) {
			found = append(found, img)
		}
	}
	return found
}

// pulled returns the images of a repository that have a digest, there or here.
func pulled(images []Image, base string, d digest.Digest) []Image {
	var found []Image
	for _, img := range images {
		tagged := strings.HasPrefix(img.Name, base+":") || strings.HasPrefix(img.Name, base+"@")
		if tagged && (img.Digest == d || img.Source == d) {
			found = append(found, img)
		}
	}
	return found
}

// names lists images for an error.
func names(images []Image) string {
	const most = 10
	var list []string
	for _, img := range images[:min(len(images), most)] {
		list = append(list, img.Name)
	}
	if len(images) > most {
		list = append(list, fmt.Sprintf("and %d more", len(images)-most))
	}
	return strings.Join(list, ", ")
}

// Remove removes a name: with it go the blobs that no other image uses. By digest, all names of the image are removed.
func (s *Store) Remove(ctx context.Context, ref string) error {
	lock, err := s.lock(ctx)
	if err != nil {
		return err
	}
	defer lock.Close()
	remove, err := s.namesOf(ctx, ref)
	if err != nil {
		return err
	}
	for _, name := range remove {
		if err := os.Remove(s.namePath(name)); err != nil {
			return fmt.Errorf("remove image %s: %w", name, err)
		}
	}
	if err := syncDir(s.path("names")); err != nil {
		return err
	}
	return s.sweepBlobs(ctx)
}

// namesOf returns the name that ref is, even if its record is damaged, or all names of the image with that digest.
func (s *Store) namesOf(ctx context.Context, ref string) ([]string, error) {
	if name, err := NormalizeName(ref); err == nil {
		if _, err := os.Lstat(s.namePath(name)); err == nil {
			return []string{name}, nil
		}
	}
	img, err := s.Get(ctx, ref)
	if err != nil {
		return nil, err
	}
	images, err := s.List(ctx)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, other := range byDigest(images, string(img.Digest)) {
		names = append(names, other.Name)
	}
	return names, nil
}

// sweepBlobs removes blobs that nobody uses. The caller holds the lock.
func (s *Store) sweepBlobs(ctx context.Context) error {
	unused, err := s.unusedBlobs(ctx)
	if err != nil {
		return err
	}
	for _, name := range unused {
		if err := os.Remove(s.path("blobs", "sha256", name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("sweep blobs: %w", err)
		}
	}
	return nil
}

// unusedBlobs returns the names of blobs that no image uses, and no container. The caller holds the lock.
func (s *Store) unusedBlobs(ctx context.Context) ([]string, error) {
	images, err := s.List(ctx)
	if err != nil {
		return nil, err // a record that can't be read may use any blob
	}
	held, err := s.held()
	if err != nil {
		return nil, err
	}
	used := map[string]bool{}
	for _, img := range slices.Concat(images, held) {
		for _, d := range img.Blobs {
			used[d.Encoded()] = true
		}
	}
	files, err := os.ReadDir(s.path("blobs", "sha256"))
	if err != nil {
		return nil, fmt.Errorf("sweep blobs: %w", err)
	}
	var unused []string
	for _, f := range files {
		if !used[f.Name()] {
			unused = append(unused, f.Name())
		}
	}
	return unused, nil
}

// OpenLayer returns the uncompressed bytes of a layer. In place of io.EOF its reader returns layer.ErrDigest, wrapped with
// the digest and the file, when they are not what the layer's DiffID promises; so an error at the end makes all that was
// read before worthless.
func (s *Store) OpenLayer(l Layer) (io.ReadCloser, error) {
	path := s.blobPath(l.Digest)
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("layer %s is gone, perhaps its image was removed: %w", l.Digest, err)
	}
	r, err := Uncompress(f, l.DiffID)
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("layer %s in %s: %w", l.Digest, path, err)
	}
	return &layerFile{ReadCloser: r, file: f, name: fmt.Sprintf("layer %s in %s", l.Digest, path)}, nil
}

// Disk returns the path of the EROFS disk that an image from a directory is; false for any other image. The file must not be
// written to.
func (s *Store) Disk(img Image) (string, bool) {
	if len(img.Layers) != 1 || img.Layers[0].MediaType != MediaTypeDisk {
		return "", false
	}
	return s.blobPath(img.Layers[0].Digest), true
}

// Uncompress decompresses a layer and verifies the result, each on a goroutine of its own. Its reader ends as that of OpenLayer
// does; closing does not close r, but waits until it is no longer in use.
func Uncompress(f io.Reader, diffID digest.Digest) (io.ReadCloser, error) {
	plain, _, err := layer.Decompress(f)
	if err != nil {
		return nil, err
	}
	first := layer.Pipe(plain)
	verified, err := layer.Verify(first, diffID)
	if err != nil {
		return nil, errors.Join(err, first.Close(), plain.Close())
	}
	return &stages{ReadCloser: layer.Pipe(verified), below: []io.Closer{first, plain}}, nil
}

// stages closes a reader before those that it reads from.
type stages struct {
	io.ReadCloser
	below []io.Closer
}

func (s *stages) Close() error {
	// The last stage may wait for the first, which ends at the next buffer.
	errs := []error{s.ReadCloser.Close()}
	for _, c := range s.below {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}

// layerFile puts the layer's name before errors.
type layerFile struct {
	io.ReadCloser
	file *os.File
	name string
}

func (l *layerFile) Read(p []byte) (int, error) {
	n, err := l.ReadCloser.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = fmt.Errorf("%s: %w", l.name, err)
	}
	return n, err
}

func (l *layerFile) Close() error { return errors.Join(l.ReadCloser.Close(), l.file.Close()) }

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// sweepTmp removes what imports left that were killed. The caller holds the lock.
func (s *Store) sweepTmp(ctx context.Context) {
	dirs, err := os.ReadDir(s.path("tmp"))
	if err != nil {
		return
	}
	for _, d := range dirs {
		f, err := filelock.TryExisting(s.path("tmp", d.Name()))
		if f != nil {
			slog.DebugContext(ctx, "Removing what a killed import left", "path", f.Name())
			err = errors.Join(os.RemoveAll(f.Name()), f.Close())
		}
		if err != nil {
			slog.WarnContext(ctx, "Can't remove what a killed import left", "path", s.path("tmp", d.Name()), "error", err)
		}
	}
}

package image

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/runcvm/runcvm/internal/filelock"
	"github.com/runcvm/runcvm/internal/image/layer"
)

// Blob is a layer's blob that is being read into an Ingest: what the store has of it already comes from there, the rest from a
// registry, and goes to the store on the way. Legal order: Ingest.Blob; Reader once, read to its end; Finish; Close, always. While
// it is open nobody else reads or writes the same partial blob: a second who asks for it waits, and then finds what the first got.
type Blob struct {
	g    *Ingest
	desc ocispec.Descriptor
	file *os.File
	have int64 // bytes in the file at the beginning
	// whole says that the blob is one of the store's, verified once, and only read.
	whole  bool
	reader *blobReader
}

// partialPath is where the beginning of a blob lies.
func (s *Store) partialPath(d digest.Digest) string { return s.path("partial", d.Encoded()) }

// lockInterval is how often a partial blob that another adds to is tried again: a download takes seconds, and a waiting flock
// could not be given up.
const lockInterval = 20 * time.Millisecond

// Blob opens a blob. waiting, if not nil, is called once when another has it in use.
func (g *Ingest) Blob(ctx context.Context, d ocispec.Descriptor, waiting func()) (*Blob, error) {
	s := g.in.store
	if err := describedBlob(d, s.Limits.WithDefaults().Bytes); err != nil {
		return nil, err
	}
	for {
		b, err := g.tryBlob(d)
		if err != nil || b != nil {
			return b, err
		}
		if waiting != nil {
			waiting()
			waiting = nil
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(lockInterval):
		}
	}
}

// tryBlob opens a blob; nil, nil when another has it in use.
func (g *Ingest) tryBlob(d ocispec.Descriptor) (*Blob, error) {
	if b, err := g.wholeBlob(d); b != nil || err != nil {
		return b, err
	}
	b := &Blob{g: g, desc: d}
	var err error
	if b.file, err = filelock.TryPath(g.in.store.partialPath(d.Digest)); b.file == nil || err != nil {
		return nil, err
	}
	// Another may have made it the store's, and removed the partial one, since it was looked for there: this one is new then.
	if whole, err := g.wholeBlob(d); whole != nil || err != nil {
		return whole, errors.Join(err, os.Remove(b.file.Name()), b.file.Close())
	}
	if err := b.measure(); !errors.Is(err, errOtherSize) {
		return b, err
	}
	// Only its name is taken away: the file may be a blob of the store by now, in which nobody must write.
	return nil, errors.Join(os.Remove(b.file.Name()), b.file.Close())
}

// wholeBlob opens a blob that the store or the Ingest has; nil, nil when there is none.
func (g *Ingest) wholeBlob(d ocispec.Descriptor) (*Blob, error) {
	// A link keeps the blob when its image is removed meanwhile. It is there already when two layers of one image are the same.
	err := os.Link(g.in.store.blobPath(d.Digest), g.in.blobPath(d.Digest))
	if err != nil && !errors.Is(err, fs.ErrExist) && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	b := &Blob{g: g, desc: d, whole: true}
	if b.file, err = os.Open(g.in.blobPath(d.Digest)); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if err := b.measure(); err != nil {
		return nil, err
	}
	return b, nil
}

// errOtherSize says that a partial blob cannot be the beginning of what is asked for.
var errOtherSize = errors.New("the partial blob has another size")

// measure finds how much of the blob there is. After an error the file is closed, except after errOtherSize.
func (b *Blob) measure() error {
	var st unix.Stat_t
	err := unix.Fstat(int(b.file.Fd()), &st)
	b.have = st.Size
	switch {
	case err != nil || b.have == b.desc.Size:
	case b.whole:
		err = fmt.Errorf("blob %s has %d bytes, its descriptor says %d", b.desc.Digest, b.have, b.desc.Size)
	case b.have > b.desc.Size || st.Nlink > 1:
		return errOtherSize
	}
	if err != nil {
		return errors.Join(err, b.file.Close())
	}
	return nil
}

// Have returns how many bytes of the blob the store has already.
func (b *Blob) Have() int64 { return b.have }

// Reader returns all bytes of the blob. rest is called once, when there are more than the store has, and returns those from an
// offset on; they are written to the store. In place of io.EOF the reader returns layer.ErrDigest for content with another
// digest; an error comes again at every later Read.
func (b *Blob) Reader(rest func(offset int64) (io.ReadCloser, error)) io.Reader {
	b.reader = &blobReader{b: b, rest: rest, hash: digest.SHA256.Hash()}
	return b.reader
}

type blobReader struct {
	b    *Blob
	rest func(offset int64) (io.ReadCloser, error)
	body io.ReadCloser
	at   int64
	// early is up to where what was written is on its way to the device.
	early int64
	hash  hash.Hash
	err   error
}

// earlySize is how much is sent on its way to the device at once, so that the fsync at the end has less to wait for.
const earlySize = 4 << 20

func (r *blobReader) Read(p []byte) (int, error) {
	if r.err != nil {
		return 0, r.err
	}
	n, err := r.read(p)
	r.hash.Write(p[:n])
	r.at += int64(n)
	r.err = err
	return n, err
}

func (r *blobReader) read(p []byte) (int, error) {
	d := r.b.desc
	left := d.Size - r.at
	if r.at < r.b.have {
		p = p[:min(int64(len(p)), r.b.have-r.at)]
		n, err := r.b.file.ReadAt(p, r.at)
		if errors.Is(err, io.EOF) && n == len(p) {
			err = nil
		}
		return n, err
	}
	if left == 0 {
		return 0, r.end()
	}
	if r.body == nil {
		body, err := r.rest(r.at)
		if err != nil {
			return 0, err
		}
		r.body = body
	}
	n, err := r.body.Read(p[:min(int64(len(p)), left)])
	if _, werr := r.b.file.WriteAt(p[:n], r.at); werr != nil {
		return 0, fmt.Errorf("blob %s: %w", d.Digest, werr)
	}
	if end := r.at + int64(n); end-r.early >= earlySize {
		// Only a hint: the fsync at the end tells of any failure.
		_ = unix.SyncFileRange(int(r.b.file.Fd()), r.early, end-r.early, unix.SYNC_FILE_RANGE_WRITE)
		r.early = end
	}
	if errors.Is(err, io.EOF) {
		if err = nil; int64(n) < left {
			err = fmt.Errorf("blob %s: ends after %d of %d bytes: %w", d.Digest, r.at+int64(n), d.Size, io.ErrUnexpectedEOF)
		}
	}
	return n, err
}

// end verifies what was read.
func (r *blobReader) end() error {
	d := r.b.desc.Digest
	if r.body != nil {
		var more [1]byte
		if n, _ := r.body.Read(more[:]); n > 0 {
			return fmt.Errorf("blob %s: has more than the %d bytes that its descriptor says", d, r.b.desc.Size)
		}
	}
	if got := digest.NewDigest(digest.SHA256, r.hash); got != d {
		return fmt.Errorf("blob %s: %w: content has %s", d, layer.ErrDigest, got)
	}
	return io.EOF
}

// Finish makes the blob, which was read to its end, a part of the Ingest.
func (b *Blob) Finish() error {
	if b.reader == nil || !errors.Is(b.reader.err, io.EOF) {
		return fmt.Errorf("blob %s was not read to its end", b.desc.Digest)
	}
	if b.whole {
		return nil
	}
	if err := b.file.Sync(); err != nil {
		return fmt.Errorf("blob %s: %w", b.desc.Digest, err)
	}
	err := os.Link(b.file.Name(), b.g.in.blobPath(b.desc.Digest))
	if errors.Is(err, fs.ErrExist) {
		err = nil
	}
	return err
}

// Resumed says that some of the blob had been there before, unverified.
func (b *Blob) Resumed() bool { return !b.whole && b.have > 0 }

// Discard removes the partial blob, when it turned out to be worth nothing. Close comes all the same.
func (b *Blob) Discard() error {
	if b.whole {
		return nil
	}
	return os.Remove(b.file.Name())
}

// Close gives the blob free for others. What it holds stays for the next try.
func (b *Blob) Close() error {
	var err error
	if b.reader != nil && b.reader.body != nil {
		err = b.reader.body.Close()
	}
	return errors.Join(err, b.file.Close())
}

// dropPartial removes a partial blob unless it is in use: then its user does so later.
func (s *Store) dropPartial(d digest.Digest) error {
	_, err := filelock.RemoveUnlocked(s.partialPath(d))
	return err
}

// Partial is the beginning of a blob, left by a pull that was not finished.
type Partial struct {
	// Digest is of the whole blob.
	Digest digest.Digest
	Path   string
	// Size is of what there is, in bytes.
	Size int64
	// Modified is when something came last.
	Modified time.Time
	// InUse says that a pull had it open at that moment.
	InUse bool
}

// Partials lists the partial blobs.
func (s *Store) Partials(ctx context.Context) ([]Partial, error) {
	files, err := os.ReadDir(s.path("partial"))
	if err != nil {
		return nil, fmt.Errorf("list partial blobs: %w", err)
	}
	var list []Partial
	for _, e := range files {
		p := Partial{Digest: digest.NewDigestFromEncoded(digest.SHA256, e.Name()), Path: s.path("partial", e.Name())}
		if p.Digest.Validate() != nil {
			continue
		}
		f, err := os.Open(p.Path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("list partial blobs: %w", err)
		}
		st, err := f.Stat()
		p.InUse = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil
		if err = errors.Join(err, f.Close()); err != nil {
			return nil, fmt.Errorf("list partial blobs: %w", err)
		}
		p.Size, p.Modified = st.Size(), st.ModTime()
		list = append(list, p)
	}
	return list, ctx.Err()
}

// RemovePartials removes the partial blobs to which nothing was added for an age, and which nobody has in use, and returns
// them. An age of 0 stands for all.
func (s *Store) RemovePartials(ctx context.Context, age time.Duration) ([]Partial, error) {
	list, err := s.Partials(ctx)
	if err != nil {
		return nil, err
	}
	var gone []Partial
	for _, p := range list {
		if p.InUse || time.Since(p.Modified) < age {
			continue
		}
		removed, err := filelock.RemoveUnlocked(p.Path)
		if err != nil {
			return gone, fmt.Errorf("remove partial blobs: %w", err)
		}
		if removed {
			gone = append(gone, p)
		}
	}
	return gone, nil
}

// HasBytes returns how many bytes of a blob the store has, whole or partial.
func (s *Store) HasBytes(d digest.Digest) int64 {
	for _, path := range []string{s.blobPath(d), s.partialPath(d)} {
		if st, err := os.Stat(path); err == nil {
			return st.Size()
		}
	}
	return 0
}

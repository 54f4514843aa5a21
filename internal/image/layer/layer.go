// Package layer reads the bytes of an image's layers: it recognises how they are compressed, and verifies digests on the
// way, with decompression, hashing and use each on a core of its own.
//
// A reader is for one goroutine and must be closed; an error that Read has returned comes again at every later Read.
package layer

import (
	"bufio"
	"bytes"
	_ "crypto/sha512" // the other algorithm that the specification registers for digests
	"errors"
	"fmt"
	"hash"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	"github.com/therootcompany/xz"
)

// Compression is how a stream is compressed.
type Compression string

// The compressions that Detect tells apart.
const (
	Plain Compression = "plain"
	Gzip  Compression = "gzip"
	Zstd  Compression = "zstd"
	Xz    Compression = "xz"
)

// magics are the first bytes of a stream: RFC 1952 section 2.3.1, RFC 8878 section 3.1.1, and 2.1.1.1 of the xz format.
var magics = []struct {
	kind  Compression
	magic []byte
}{
	{Gzip, []byte{0x1f, 0x8b, 0x08}},
	{Zstd, []byte{0x28, 0xb5, 0x2f, 0xfd}},
	{Xz, []byte{0xfd, '7', 'z', 'X', 'Z', 0}},
}

// maxWindow bounds the memory that a zstd or xz stream may ask for, in bytes; `zstd --ultra -22` needs 128 MiB.
const maxWindow = 128 << 20

// Detect says how a stream that begins with head is compressed. 6 bytes are enough.
func Detect(head []byte) Compression {
	for _, m := range magics {
		if bytes.HasPrefix(head, m.magic) {
			return m.kind
		}
	}
	return Plain
}

// Decompress returns the plain bytes of r, and how they were compressed. Closing does not close r.
func Decompress(r io.Reader) (io.ReadCloser, Compression, error) {
	buffered := bufio.NewReaderSize(r, 256<<10)
	head, err := buffered.Peek(6)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, "", err
	}
	kind := Detect(head)
	switch kind {
	case Gzip:
		z, err := gzip.NewReader(buffered)
		if err != nil {
			return nil, kind, fmt.Errorf("%s: %w", kind, err)
		}
		return named{z, kind}, kind, nil
	case Zstd:
		z, err := zstd.NewReader(buffered, zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderConcurrency(1))
		if err != nil {
			return nil, kind, fmt.Errorf("%s: %w", kind, err)
		}
		return named{z.IOReadCloser(), kind}, kind, nil
	case Xz:
		z, err := xz.NewReader(buffered, maxWindow)
		if err != nil {
			return nil, kind, fmt.Errorf("%s: %w", kind, err)
		}
		return named{io.NopCloser(z), kind}, kind, nil
	}
	return io.NopCloser(buffered), kind, nil
}

// named puts the compression's name before errors, except that a stream which ends too early stays io.ErrUnexpectedEOF.
type named struct {
	io.ReadCloser
	kind Compression
}

func (n named) Read(p []byte) (int, error) {
	count, err := n.ReadCloser.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = fmt.Errorf("%s stream: %w", n.kind, err)
	}
	return count, err
}

// ErrDigest says that content is not what its digest promises.
var ErrDigest = errors.New("digest does not match")

// Verify returns a reader of r that, in place of io.EOF, returns ErrDigest when what was read does not have the digest.
func Verify(r io.Reader, want digest.Digest) (io.Reader, error) {
	if err := want.Validate(); err != nil {
		return nil, fmt.Errorf("digest %q: %w", want, err)
	}
	return &verifier{r: r, want: want, h: want.Algorithm().Hash()}, nil
}

type verifier struct {
	r    io.Reader
	want digest.Digest
	h    hash.Hash
	err  error
}

func (v *verifier) Read(p []byte) (int, error) {
	if v.err != nil {
		return 0, v.err
	}
	n, err := v.r.Read(p)
	v.h.Write(p[:n])
	if errors.Is(err, io.EOF) {
		if got := digest.NewDigest(v.want.Algorithm(), v.h); got != v.want {
			err = fmt.Errorf("%w: want %s, have %s", ErrDigest, v.want, got)
		}
	}
	v.err = err
	return n, err
}

package layer

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	"github.com/ulikunitz/xz"
)

// compressed returns content in every compression.
func compressed(t testing.TB, content []byte) map[Compression][]byte {
	t.Helper()
	all := map[Compression][]byte{Plain: content}
	for kind, open := range map[Compression]func(w io.Writer) (io.WriteCloser, error){
		Gzip: func(w io.Writer) (io.WriteCloser, error) { return gzip.NewWriter(w), nil },
		Zstd: func(w io.Writer) (io.WriteCloser, error) { return zstd.NewWriter(w) },
		Xz:   func(w io.Writer) (io.WriteCloser, error) { return xz.NewWriter(w) },
	} {
		var b bytes.Buffer
		w, err := open(&b)
		if err == nil {
			_, err = w.Write(content)
			err = errors.Join(err, w.Close())
		}
		if err != nil {
			t.Fatal(err)
		}
		all[kind] = b.Bytes()
	}
	return all
}

func decompress(b []byte) ([]byte, Compression, error) {
	r, kind, err := Decompress(bytes.NewReader(b))
	if err != nil {
		return nil, kind, err
	}
	defer r.Close()
	plain, err := io.ReadAll(r)
	return plain, kind, err
}

func TestCompressionsAreRecognised(t *testing.T) {
	for _, content := range []string{"", "x", strings.Repeat("content ", 100_000)} {
		for want, b := range compressed(t, []byte(content)) {
			plain, kind, err := decompress(b)
			if err != nil || kind != want || string(plain) != content {
				t.Errorf("%s of %d bytes: %s, %d bytes: %v", want, len(content), kind, len(plain), err)
			}
		}
	}
}

func TestGzipMembersFollowEachOther(t *testing.T) {
	one, two := compressed(t, []byte("one "))[Gzip], compressed(t, []byte("two"))[Gzip]
	if plain, _, err := decompress(append(one, two...)); err != nil || string(plain) != "one two" {
		t.Errorf("%q, %v", plain, err)
	}
}

func TestFaultyStreamsAreErrors(t *testing.T) {
	content := []byte(strings.Repeat("some content that has to be compressed ", 1000))
	for kind, b := range compressed(t, content) {
		if kind == Plain {
			continue
		}
		for size := 6; size < len(b); size += 1 + len(b)/50 {
			if _, _, err := decompress(b[:size]); err == nil {
				t.Errorf("%s cut after %d of %d bytes: no error", kind, size, len(b))
			}
		}
		damaged := bytes.Clone(b)
		damaged[len(b)/2] ^= 0x55
		if plain, _, err := decompress(damaged); err == nil && !bytes.Equal(plain, content) {
			t.Errorf("%s with another byte: other content and no error", kind)
		}
	}
	if _, _, err := Decompress(iotest.ErrReader(io.ErrClosedPipe)); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("reader's error: %v", err)
	}
}

func TestVerifyTellsAtTheEnd(t *testing.T) {
	content := "content"
	for _, algorithm := range []digest.Algorithm{digest.SHA256, digest.SHA512} {
		r, err := Verify(strings.NewReader(content), algorithm.FromString(content))
		if err != nil {
			t.Fatal(err)
		}
		if b, err := io.ReadAll(r); err != nil || string(b) != content {
			t.Errorf("%q, %v", b, err)
		}
		other := algorithm.FromString("other")
		if r, err = Verify(strings.NewReader(content), other); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if _, err := io.ReadAll(r); !errors.Is(err, ErrDigest) || !strings.Contains(err.Error(), other.String()) {
				t.Errorf("error %v", err)
			}
		}
	}
	for _, bad := range []digest.Digest{"", "sha256:", "sha256:xyz", "md5:d41d8cd98f00b204e9800998ecf8427e"} {
		if _, err := Verify(strings.NewReader(""), bad); err == nil {
			t.Errorf("digest %q: no error", bad)
		}
	}
}

func TestPipeCarriesBytesAndErrors(t *testing.T) {
	content := strings.Repeat("0123456789", 300_000)
	for name, r := range map[string]io.Reader{
		"whole": strings.NewReader(content), "halves": iotest.HalfReader(strings.NewReader(content)),
		"error with data": iotest.DataErrReader(strings.NewReader(content)),
	} {
		p := Pipe(r)
		if err := iotest.TestReader(p, []byte(content)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := p.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Errorf("%s: read after the end: %v", name, err)
		}
		if err := errors.Join(p.Close(), p.Close()); err != nil {
			t.Errorf("%s: close: %v", name, err)
		}
	}
	p := Pipe(io.MultiReader(strings.NewReader("begin"), iotest.ErrReader(io.ErrNoProgress)))
	defer p.Close()
	if b, err := io.ReadAll(p); string(b) != "begin" || !errors.Is(err, io.ErrNoProgress) {
		t.Errorf("%q, %v", b, err)
	}
}

// endless never ends, and counts its readers.
type endless struct{ reading chan struct{} }

func (e endless) Read(p []byte) (int, error) {
	select {
	case e.reading <- struct{}{}:
	default:
	}
	return len(p), nil
}

func TestPipeStopsWhenItIsClosed(t *testing.T) {
	e := endless{make(chan struct{}, 1)}
	p := Pipe(e)
	<-e.reading
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	for len(e.reading) > 0 {
		<-e.reading
	}
	if len(e.reading) > 0 {
		t.Error("the source is still read after Close")
	}
	// What was read ahead may still come, then the end does.
	if _, err := io.Copy(io.Discard, p); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("read after Close: %v", err)
	}
}

func FuzzDecompress(f *testing.F) {
	for _, b := range compressed(f, []byte(strings.Repeat("content", 10))) {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, kind, err := Decompress(bytes.NewReader(b))
		if err != nil {
			return
		}
		defer r.Close()
		plain, err := io.ReadAll(io.LimitReader(r, 1<<20))
		if kind == Plain && (err != nil || !bytes.Equal(plain, b)) {
			t.Errorf("plain bytes changed: %v", err)
		}
	})
}

package terminal

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"testing/iotest"
)

func TestTheDetachKeys(t *testing.T) {
	for _, c := range []struct {
		keys, in, out string
		detached      bool
	}{
		{DefaultDetachKeys, "plain", "plain", false},
		{DefaultDetachKeys, "a\x10\x11b", "a", true},
		{DefaultDetachKeys, "a\x10b", "a\x10b", false},
		{DefaultDetachKeys, "a\x10", "a\x10", false},
		{DefaultDetachKeys, "\x10\x10\x11", "\x10", true},
		{DefaultDetachKeys, "\x11\x10", "\x11\x10", false},
		{"a,a,b", "xaaab", "xa", true},
		{"a,b,a,c", "ababac", "ab", true},
		{"ctrl-]", "1\x1d2", "1", true},
		{"", "\x10\x11", "\x10\x11", false},
	} {
		for name, r := range map[string]func(io.Reader) io.Reader{
			"at once": func(r io.Reader) io.Reader { return r }, "byte by byte": iotest.OneByteReader, "with its end": iotest.DataErrReader,
		} {
			keys, err := ParseDetachKeys(c.keys)
			if err != nil {
				t.Fatal(err)
			}
			d := NewDetachReader(io.NopCloser(r(bytes.NewReader([]byte(c.in)))), keys)
			out, err := io.ReadAll(d)
			if string(out) != c.out || errors.Is(err, ErrDetached) != c.detached || !c.detached && err != nil {
				t.Errorf("%s, %s: %q becomes %q, %v", c.keys, name, c.in, out, err)
			}
			select {
			case <-d.Detached():
				if !c.detached {
					t.Errorf("%s, %s: %q detaches", c.keys, name, c.in)
				}
			default:
				if c.detached {
					t.Errorf("%s, %s: %q does not detach", c.keys, name, c.in)
				}
			}
		}
	}
	if _, err := ParseDetachKeys("ctrl-nothing"); err == nil {
		t.Error("keys that there are not are taken")
	}
}

// FuzzDetachReader compares with what a search in the whole input finds.
func FuzzDetachReader(f *testing.F) {
	f.Add([]byte("\x10\x11"), []byte("a\x10\x10\x11b"), uint8(3))
	f.Add([]byte("aab"), []byte("aaaab"), uint8(1))
	f.Add([]byte{}, []byte("aaaab"), uint8(2))
	f.Fuzz(func(t *testing.T, keys, in []byte, size uint8) {
		want, detaches := in, false
		if len(keys) > 0 {
			want, _, detaches = bytes.Cut(in, keys)
		}
		d := NewDetachReader(io.NopCloser(bytes.NewReader(in)), keys)
		var out []byte
		buf := make([]byte, int(size)+1)
		for {
			n, err := d.Read(buf)
			out = append(out, buf[:n]...)
			if err != nil {
				if errors.Is(err, ErrDetached) != detaches || !detaches && !errors.Is(err, io.EOF) {
					t.Errorf("it ends with %v", err)
				}
				break
			}
		}
		if !bytes.Equal(out, want) {
			t.Errorf("%q with keys %q becomes %q, want %q", in, keys, out, want)
		}
	})
}

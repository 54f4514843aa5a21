package filecopy

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/runcvm/runcvm/internal/guestapi"
	"github.com/runcvm/runcvm/internal/monitor/api"
)

// side makes the files that the rules are tried on, the same on the host and in the container.
func side(t testing.TB, dir string) {
	t.Helper()
	must(t, os.MkdirAll(dir+"/src/sub", 0o755), os.WriteFile(dir+"/src/sub/a", []byte("a"), 0o600),
		os.WriteFile(dir+"/file", []byte("file"), 0o640), os.Symlink("file", dir+"/flink"), os.Symlink("src", dir+"/dlink"),
		os.Symlink("nothing", dir+"/broken"), os.Mkdir(dir+"/dest", 0o755), os.WriteFile(dir+"/dest/old", []byte("old"), 0o600),
		os.WriteFile(dir+"/taken", []byte("taken"), 0o600), os.Symlink("dest", dir+"/todest"), os.Symlink("taken", dir+"/totaken"),
		os.Symlink("fresh", dir+"/tofresh"), os.Mkdir(dir+"/dest/src", 0o700), os.WriteFile(dir+"/dest/src/kept", nil, 0o600),
		os.MkdirAll(dir+"/blocked/src", 0o755), os.WriteFile(dir+"/blocked/src/sub", nil, 0o600), os.Mkdir(dir+"/blocked/file", 0o755))
}

// listing is what lies below dir, a line a file: directories with a slash, links with their target, files with their content.
func listing(t testing.TB, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	must(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, _ := filepath.Rel(dir, path)
		switch {
		case d.IsDir():
			all[name] = "/"
		case d.Type()&os.ModeSymlink != 0:
			target, _ := os.Readlink(path)
			all[name] = "-> " + target
		default:
			b, _ := os.ReadFile(path)
			all[name] = string(b)
		}
		return nil
	}))
	return all
}

// rules are docker cp's, by its documentation and its source (docker/cli cp.go, moby/go-archive copy.go): what a source and a
// destination lead to, the same in both directions. new has what
// comes into being.
var rules = []struct {
	source, dest string
	follow       bool
	new          map[string]string
	err          string // one of these, by |: on the host, in a container
}{
	// A file.
	{source: "file", dest: "x", new: map[string]string{"x": "file"}},
	{source: "file", dest: "x/", err: "no such directory"},
	{source: "file", dest: "x/.", err: "no such file|no such directory"},
	{source: "file", dest: "no/x", err: "does not exist|could not find the file /no in container c"},
	{source: "file", dest: "taken", new: map[string]string{"taken": "file"}},
	{source: "file", dest: "taken/", err: "not a directory|no such directory"},
	{source: "file", dest: "dest", new: map[string]string{"dest/file": "file"}},
	{source: "file", dest: "dest/", new: map[string]string{"dest/file": "file"}},
	{source: "file", dest: "dest/.", new: map[string]string{"dest/file": "file"}},
	{source: "file", dest: "todest", new: map[string]string{"dest/file": "file"}},
	{source: "file", dest: "totaken", new: map[string]string{"taken": "file"}},
	{source: "file", dest: "tofresh", new: map[string]string{"fresh": "file"}},
	{source: "file", dest: "blocked", err: "cannot overwrite directory"},
	{source: "file/", dest: "x", err: "not a directory"},
	{source: "file/.", dest: "x", err: "not a directory"},
	{source: "nothing", dest: "x", err: "could not find the file /nothing in container c|no such file"},
	// A directory.
	{source: "src", dest: "x", new: map[string]string{"x": "/", "x/sub": "/", "x/sub/a": "a"}},
	{source: "src", dest: "x/", new: map[string]string{"x": "/", "x/sub": "/", "x/sub/a": "a"}},
	{source: "src/", dest: "x", new: map[string]string{"x": "/", "x/sub": "/", "x/sub/a": "a"}},
	{source: "src/.", dest: "x", new: map[string]string{"x": "/", "x/sub": "/", "x/sub/a": "a"}},
	{source: "src", dest: "no/x", err: "does not exist|could not find the file /no in container c"},
	{source: "src", dest: "taken", err: "cannot copy directory"},
	{source: "src", dest: "totaken", err: "cannot copy directory"},
	{source: "src/.", dest: "taken", err: "cannot copy directory"},
	{source: "src", dest: "dest", new: map[string]string{"dest/src/sub": "/", "dest/src/sub/a": "a"}},
	{source: "src/", dest: "dest", new: map[string]string{"dest/src/sub": "/", "dest/src/sub/a": "a"}},
	{source: "src/.", dest: "dest", new: map[string]string{"dest/sub": "/", "dest/sub/a": "a"}},
	{source: "src/.", dest: "todest/", new: map[string]string{"dest/sub": "/", "dest/sub/a": "a"}},
	{source: "src/sub/..", dest: "x", new: map[string]string{"x": "/", "x/sub": "/", "x/sub/a": "a"}},
	{source: "src", dest: "blocked", err: "cannot overwrite non-directory"},
	// A link.
	{source: "flink", dest: "x", new: map[string]string{"x": "-> file"}},
	{source: "flink", dest: "dest", new: map[string]string{"dest/flink": "-> file"}},
	{source: "dlink", dest: "dest", new: map[string]string{"dest/dlink": "-> src"}},
	{source: "dlink/", dest: "dest", new: map[string]string{"dest/dlink": "/", "dest/dlink/sub": "/", "dest/dlink/sub/a": "a"}},
	{source: "dlink/.", dest: "dest", new: map[string]string{"dest/sub": "/", "dest/sub/a": "a"}},
	{source: "dlink/sub", dest: "dest", new: map[string]string{"dest/sub": "/", "dest/sub/a": "a"}},
	{source: "broken", dest: "x", new: map[string]string{"x": "-> nothing"}},
	{source: "flink", dest: "x", follow: true, new: map[string]string{"x": "file"}},
	{source: "flink", dest: "dest", follow: true, new: map[string]string{"dest/flink": "file"}},
	{source: "dlink", dest: "dest", follow: true, new: map[string]string{"dest/dlink": "/", "dest/dlink/sub": "/", "dest/dlink/sub/a": "a"}},
	{source: "dlink/.", dest: "dest", follow: true, new: map[string]string{"dest/sub": "/", "dest/sub/a": "a"}},
	{source: "broken", dest: "x", follow: true, err: "could not find the file /nothing in container c|no such file"},
	{source: "file", dest: "x", follow: true, new: map[string]string{"x": "file"}},
}

func TestTheRulesOfDockerCp(t *testing.T) {
	for _, rule := range rules {
		for _, into := range []bool{false, true} {
			t.Run(fmt.Sprintf("into=%t %s %s follow=%t", into, strings.ReplaceAll(rule.source, "/", "|"), strings.ReplaceAll(rule.dest, "/", "|"), rule.follow), func(t *testing.T) {
				c, g := newContainer(t)
				host := t.TempDir()
				side(t, host)
				side(t, g.root)
				o := Options{FollowLink: rule.follow}
				where := host
				before := listing(t, host)
				var err error
				if into {
					where = g.root
					_, err = c.To(t.Context(), host+"/"+rule.source, rule.dest, o)
				} else {
					_, err = c.From(t.Context(), rule.source, host+"/"+rule.dest, o)
				}
				if rule.err != "" {
					if !containsOne(err, rule.err) {
						t.Fatalf("it says %v, not %q", err, rule.err)
					}
					return
				}
				must(t, err)
				after := listing(t, where)
				maps.Copy(before, rule.new)
				if fmt.Sprint(before) != fmt.Sprint(after) {
					t.Errorf("it came to\n%v\nnot to\n%v", after, before)
				}
			})
		}
	}
}

func containsOne(err error, texts string) bool {
	for text := range strings.SplitSeq(texts, "|") {
		if err != nil && strings.Contains(err.Error(), text) {
			return true
		}
	}
	return false
}

func TestTheRoot(t *testing.T) {
	c, g := newContainer(t)
	side(t, g.root)
	host := t.TempDir()
	_, err := c.From(t.Context(), "/", host, Options{})
	must(t, err)
	if a, b := fmt.Sprint(listing(t, g.root)), fmt.Sprint(listing(t, host)); a != b {
		t.Errorf("%s\nis not\n%s", b, a)
	}
}

func TestOwners(t *testing.T) {
	for _, keep := range []bool{false, true} {
		c, g := newContainer(t)
		host := t.TempDir()
		must(t, os.WriteFile(g.root+"/f", nil, 0o644), os.Chown(g.root+"/f", 12, 34), os.WriteFile(host+"/g", nil, 0o4755), os.Chown(host+"/g", 56, 78),
			os.Chmod(host+"/g", 0o755|os.ModeSetuid))
		o := Options{KeepOwner: keep}
		_, err := c.From(t.Context(), "f", host, o)
		_, err2 := c.To(t.Context(), host+"/g", "/", o)
		must(t, err, err2)
		var f, gst unix.Stat_t
		must(t, unix.Stat(host+"/f", &f), unix.Stat(g.root+"/g", &gst))
		want := [4]uint32{0, 0, 0, 0}
		if keep {
			want = [4]uint32{12, 34, 56, 78}
		}
		if got := [4]uint32{f.Uid, f.Gid, gst.Uid, gst.Gid}; got != want {
			t.Errorf("keep=%t: %v, not %v", keep, got, want)
		}
		if gst.Mode&0o7777 != 0o4755 {
			t.Errorf("mode %o", gst.Mode)
		}
	}
}

func TestATarStreamOut(t *testing.T) {
	c, g := newContainer(t)
	side(t, g.root)
	sparse, err := os.Create(g.root + "/src/sparse")
	must(t, err, sparse.Truncate(3<<20), sparse.Close(), os.Chown(g.root+"/src/sub/a", 5, 6))
	for source, want := range map[string]string{
		"src": "src/ src/sparse src/sub/ src/sub/a", "src/.": "./ sparse sub/ sub/a", "file": "file", "flink": "flink",
		"dlink/": "dlink/ dlink/sparse dlink/sub/ dlink/sub/a",
	} {
		var out bytes.Buffer
		_, err := c.From(t.Context(), source, Stdio, Options{Stdout: &out})
		must(t, err)
		var names []string
		r := tar.NewReader(&out)
		for {
			h, err := r.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			must(t, err)
			names = append(names, h.Name)
			if h.Name == "src/sub/a" && (h.Uid != 5 || h.Gid != 6) {
				t.Errorf("%+v", h)
			}
			if n, err := io.Copy(io.Discard, r); strings.HasSuffix(h.Name, "sparse") && (n != 3<<20 || err != nil || h.PAXRecords["RUNCVM.size"] != "") {
				t.Errorf("%d bytes, %v, %v", n, err, h.PAXRecords)
			}
		}
		if got := strings.Join(names, " "); got != want {
			t.Errorf("%s has %s, not %s", source, got, want)
		}
	}
}

func TestATarStreamIn(t *testing.T) {
	var plain, zipped bytes.Buffer
	w := tar.NewWriter(&plain)
	must(t, w.WriteHeader(&tar.Header{Name: "lib/new", Mode: 0o600, Size: 3, Uid: 9}))
	_, err := w.Write([]byte("new"))
	must(t, err, w.WriteHeader(&tar.Header{Typeflag: tar.TypeLink, Name: "again", Linkname: "lib/new"}), w.Close())
	plain.Write(make([]byte, 20<<10)) // tar's own padding
	z := gzip.NewWriter(&zipped)
	_, err = z.Write(plain.Bytes())
	must(t, err, z.Close())
	for _, b := range [][]byte{plain.Bytes(), zipped.Bytes()} {
		c, g := newContainer(t)
		side(t, g.root)
		_, err := c.To(t.Context(), Stdio, "todest", Options{Stdin: bytes.NewReader(b)})
		must(t, err)
		if l := listing(t, g.root+"/dest"); l["lib/new"] != "new" || l["again"] != "new" {
			t.Error(l)
		}
		if _, err := c.To(t.Context(), Stdio, "file", Options{Stdin: bytes.NewReader(b)}); !containsOne(err, `destination "c:file" must be a directory`) {
			t.Error(err)
		}
		if _, err := c.To(t.Context(), Stdio, "/", Options{Stdin: strings.NewReader(strings.Repeat("no archive", 1000))}); !containsOne(err, "invalid tar header") {
			t.Error(err)
		}
	}
}

// TestALyingGuest has guests that send what they like and say what they like.
func TestALyingGuest(t *testing.T) {
	const good = "x"
	archiveOf := func(names ...string) []byte {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for _, n := range names {
			h := &tar.Header{Name: n, Mode: 0o600, Size: int64(len(good))}
			if strings.HasSuffix(n, "/") {
				h.Size, h.Typeflag = 0, tar.TypeDir
			}
			must(t, w.WriteHeader(h))
			if h.Size > 0 {
				_, _ = w.Write([]byte(good))
			}
		}
		_ = w.Close()
		return b.Bytes()
	}
	send := func(b []byte) func(net.Conn) {
		return func(c net.Conn) {
			_ = guestapi.Send(c, io.NopCloser(bytes.NewReader(b)))
			_, _ = io.Copy(io.Discard, c)
		}
	}
	fine := func() (*api.CopyResultResponse, error) { return &api.CopyResultResponse{}, nil }
	for name, lie := range map[string]struct {
		serve  func(net.Conn)
		result func() (*api.CopyResultResponse, error)
		err    string
	}{
		"more than was asked for": {send(archiveOf(".", "authorized_keys")), fine, "beside what was copied"},
		"something else":          {send(archiveOf("authorized_keys")), fine, "instead of what was copied|beside what was copied"},
		"a directory for a file":  {send(archiveOf("./", "../authorized_keys")), fine, "outside of the destination"},
		"nothing":                 {send(nil), fine, "empty"},
		"half":                    {send(archiveOf(".")[:512]), fine, "unexpected EOF"},
		"garbage":                 {send(bytes.Repeat([]byte{0xff}, 1<<20)), fine, "read the archive"},
		"an early end":            {func(c net.Conn) { _, _ = c.Write([]byte{2, 0, 0, 0, 9, 1}) }, fine, "unexpected EOF"},
		"a frame too long":        {func(c net.Conn) { _, _ = c.Write([]byte{2, 255, 255, 255, 255}) }, fine, "protocol violation"},
		"a failure at the end": {send(archiveOf(".")), func() (*api.CopyResultResponse, error) {
			return &api.CopyResultResponse{Error: "the disk is broken"}, nil
		}, "in the container: the disk is broken"},
		"no result": {send(archiveOf(".")), func() (*api.CopyResultResponse, error) { return nil, errors.New("never") }, "never"},
	} {
		t.Run(name, func(t *testing.T) {
			for _, dest := range []string{"x", Stdio} {
				c, g := newContainer(t)
				side(t, g.root)
				g.serve, g.result = lie.serve, lie.result
				host := t.TempDir()
				path := dest
				if dest != Stdio {
					path = host + "/dir/x"
					must(t, os.Mkdir(host+"/dir", 0o755))
				}
				_, err := c.From(t.Context(), "file", path, Options{Stdout: io.Discard})
				if !containsOne(err, lie.err) {
					t.Errorf("%s: it says %v, not %q", dest, err, lie.err)
				}
				for left := range listing(t, host) {
					if left != "." && left != "dir" && !strings.HasPrefix(left, "dir/x") {
						t.Errorf("left: %s", left)
					}
				}
			}
		})
	}
}

func TestWhereALinkOfTheGuestLeadsIsShownWithoutControls(t *testing.T) {
	c, g := newContainer(t)
	must(t, os.WriteFile(filepath.Join(g.root, "a\x1b]0;b\x07"), nil, 0o600), os.Symlink("a\x1b]0;b\x07", filepath.Join(g.root, "link")))
	source := filepath.Join(t.TempDir(), "f")
	must(t, os.WriteFile(source, []byte("x"), 0o600))
	s, err := c.To(t.Context(), source, "/link", Options{})
	must(t, err)
	if s.Dest != "/a?]0;b?" {
		t.Errorf("got %q", s.Dest)
	}
}

func TestAnInterruptEndsACopyWhateverTheGuestDoes(t *testing.T) {
	for _, into := range []bool{false, true} {
		c, g := newContainer(t)
		side(t, g.root)
		reached := make(chan struct{}, 1)
		g.serve = func(conn net.Conn) {
			reached <- struct{}{}
			var b [1]byte
			_, _ = conn.Read(b[:])
			select {}
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		host := t.TempDir()
		must(t, os.WriteFile(host+"/large", make([]byte, 32<<20), 0o600))
		go func() {
			var err error
			if into {
				_, err = c.To(ctx, host+"/large", "/", Options{})
			} else {
				_, err = c.From(ctx, "file", host, Options{})
			}
			done <- err
		}()
		<-reached
		cancel()
		select {
		case err := <-done:
			if !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		case <-time.After(20 * time.Second):
			t.Fatal("it does not end")
		}
	}
}

func TestSplitArgument(t *testing.T) {
	for arg, want := range map[string][2]string{
		"c:/x": {"c", "/x"}, "c:x": {"c", "x"}, "c:": {"c", ""}, "./a:b": {"", "./a:b"}, "/a:b": {"", "/a:b"}, "a": {"", "a"},
		"-": {"", "-"}, "c:a:b": {"c", "a:b"}, "../c:d": {"", "../c:d"}, ":x": {"", "x"},
	} {
		if c, p := SplitArgument(arg); c != want[0] || p != want[1] {
			t.Errorf("%s is %q and %q", arg, c, p)
		}
	}
}

package install

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestMain lets the test's own program stand for a Firecracker.
func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == "--version" {
		fmt.Println("Firecracker v1.16.1")
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func script(says string) string { return "#!/bin/sh\necho '" + says + "'\n" }

// archive is a .tgz of files, each mode 0644: modes do not count.
func archive(t *testing.T, files ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	for i := 0; i < len(files); i += 2 {
		h := &tar.Header{Name: files[i], Mode: 0o644, Size: int64(len(files[i+1])), Typeflag: tar.TypeReg}
		if strings.HasPrefix(files[i+1], "->") {
			h.Typeflag, h.Linkname, h.Size, files[i+1] = tar.TypeSymlink, files[i+1][2:], 0, ""
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(files[i+1])); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.Close(), z.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// release is one as Firecracker's project publishes it.
func release(t *testing.T, version string) []byte {
	t.Helper()
	dir := "release-v" + version + "-x86_64/"
	return archive(t, dir+"firecracker-v"+version+"-x86_64.debug", "symbols", dir+"firecracker-v"+version+"-x86_64", script("Firecracker v"+version),
		dir+"jailer-v"+version+"-x86_64", script("Jailer v"+version), dir+"seccompiler-bin-v"+version+"-x86_64", "x", dir+"LICENSE", "x")
}

func sum(b []byte) string {
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:])
}

func put(t *testing.T, path string, b []byte) string {
	t.Helper()
	if err := os.WriteFile(path, b, 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// left is what is in a directory.
func left(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return strings.Join(names, " ")
}

func TestAReleaseIsInstalledByEveryKindOfChecksum(t *testing.T) {
	const name = "firecracker-v1.16.1-x86_64.tgz"
	b := release(t, "1.16.1")
	src := t.TempDir()
	path := put(t, filepath.Join(src, name), b)
	list := put(t, filepath.Join(src, "SHA256SUMS"), []byte(sum([]byte("other"))+"  other.tgz\n"+sum(b)+" *./"+name+"\n"))
	bare := put(t, filepath.Join(src, "bare"), []byte(strings.ToUpper(sum(b))+"\n"))
	put(t, path+".sha256.txt", []byte(sum(b)+"  "+name+"\n"))
	server := httptest.NewServer(http.FileServer(http.Dir(src)))
	defer server.Close()
	for what, o := range map[string]Options{
		"beside a file":          {Source: path},
		"beside a URL":           {Source: server.URL + "/" + name + "?x=1"},
		"by its digits":          {Source: path, SHA256: "sha256:" + sum(b)},
		"by a list":              {Source: path, Checksums: list},
		"by a file without name": {Source: server.URL + "/" + name, Checksums: bare},
		"by a list's URL":        {Source: path, Checksums: server.URL + "/SHA256SUMS"},
	} {
		o.Dir = filepath.Join(t.TempDir(), "new", "bin")
		got, err := Install(t.Context(), o)
		if err != nil || len(got) != 2 || got[0].Name != "jailer" || got[1].Version != "1.16.1" || got[1].Path != filepath.Join(o.Dir, "firecracker") {
			t.Errorf("%s: %+v, %v", what, got, err)
			continue
		}
		if l := left(t, o.Dir); l != "firecracker jailer" {
			t.Errorf("%s: the directory has %s", what, l)
		}
		for _, p := range got {
			if info, err := os.Stat(p.Path); err != nil || info.Mode() != 0o755 {
				t.Errorf("%s: %v, %v", what, info.Mode(), err)
			}
		}
	}
}

func TestASingleProgramIsInstalled(t *testing.T) {
	self, err := os.ReadFile(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	path := put(t, filepath.Join(t.TempDir(), "firecracker"), self)
	dir := t.TempDir()
	got, err := Install(t.Context(), Options{Source: path, SHA256: sum(self), Dir: dir})
	if err != nil || len(got) != 1 || got[0].Version != "1.16.1" || left(t, dir) != "firecracker" {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestWhatIsNotVerifiedOrNotRightLeavesTheOldInPlace(t *testing.T) {
	const name = "release.tgz"
	good := release(t, "1.16.1")
	dir := t.TempDir()
	old := put(t, filepath.Join(dir, "firecracker"), []byte(script("Firecracker v1.15.0")))
	src := t.TempDir()
	file := func(name string, b []byte) string { return put(t, filepath.Join(src, name), b) }
	plain := file(name, good)
	server := httptest.NewServer(http.FileServer(http.Dir(src)))
	defer server.Close()
	wrong := file("wrong.tgz", good)
	file("wrong.tgz.sha256.txt", []byte(sum([]byte("another"))+"  wrong.tgz\n"))
	foreign := file("foreign.tgz", good)
	file("foreign.tgz.sha256.txt", []byte(sum(good)+"  other.tgz\n"))
	of := func(name string, b []byte) Options { return Options{Source: file(name, b), SHA256: sum(b)} }
	for what, c := range map[string]struct {
		o    Options
		want string
	}{
		"no checksum":          {Options{Source: plain}, "no checksum"},
		"no checksum at a URL": {Options{Source: server.URL + "/" + name}, "404"},
		"not there":            {Options{Source: server.URL + "/none", SHA256: sum(good)}, "404"},
		"plain http":           {Options{Source: "http://192.0.2.1/" + name}, "https"},
		"another checksum":     {Options{Source: wrong}, "nothing was installed"},
		"another's checksum":   {Options{Source: foreign}, "has none of foreign.tgz"},
		"no digits":            {Options{Source: plain, SHA256: "12"}, "64 hexadecimal digits"},
		"too old":              {of("old.tgz", release(t, "1.13.0")), "the least that is supported is 1.13.1"},
		"another program":      {of("other.tgz", archive(t, "x/firecracker", script("Hello v1.16.1"))), "it is no firecracker"},
		"jailer only":          {of("jailer.tgz", archive(t, "x/jailer", script("Jailer v1.16.1"))), "there is no firecracker"},
		"a link":               {of("link.tgz", archive(t, "x/firecracker", "->/bin/true")), "there is no firecracker"},
		"two of a name":        {of("two.tgz", archive(t, "a/firecracker", script("Firecracker v1.16.1"), "b/firecracker", "x")), "exists"},
		"cut off":              {of("cut.tgz", good[:len(good)/2]), "unpack"},
		"no archive":           {of("text", []byte("hello, world")), "neither a release's .tgz nor a program"},
		"empty":                {of("empty", nil), "neither a release's .tgz nor a program"},
		"an ELF that is none":  {of("firecracker-elf", []byte("\x7fELF and nothing else")), "does not run here"},
	} {
		c.o.Dir = dir
		got, err := Install(t.Context(), c.o)
		if err == nil || !strings.Contains(err.Error(), c.want) || got != nil {
			t.Errorf("%s: %+v, %v, want %q", what, got, err, c.want)
		}
		if b, rerr := os.ReadFile(old); rerr != nil || string(b) != script("Firecracker v1.15.0") || left(t, dir) != "firecracker" {
			t.Errorf("%s: the directory has %s, %q", what, left(t, dir), b)
		}
	}
	if _, err := Install(t.Context(), Options{Source: plain, Dir: dir}); !errors.Is(err, ErrUnverified) {
		t.Errorf("no checksum is %v", err)
	}
}

func TestAProgramThatRunsIsReplaced(t *testing.T) {
	dir := t.TempDir()
	path := put(t, filepath.Join(dir, "firecracker"), []byte(script("Firecracker v1.15.0")))
	running, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer running.Close()
	b := release(t, "1.16.1")
	if _, err := Install(t.Context(), Options{Source: put(t, filepath.Join(t.TempDir(), "r.tgz"), b), SHA256: sum(b), Dir: dir}); err != nil {
		t.Fatal(err)
	}
	was := make([]byte, 100)
	n, _ := running.Read(was)
	now, err := os.ReadFile(path)
	if err != nil || !strings.Contains(string(was[:n]), "v1.15.0") || !strings.Contains(string(now), "v1.16.1") {
		t.Errorf("the open file is %q, the new one %q, %v", was[:n], now, err)
	}
}

func TestAnHTTPSSourceIsNotRedirectedToHTTP(t *testing.T) {
	plain := httptest.NewServer(http.NotFoundHandler())
	defer plain.Close()
	secure := httptest.NewTLSServer(http.RedirectHandler(plain.URL, http.StatusFound))
	defer secure.Close()
	transport := http.DefaultTransport
	http.DefaultTransport = secure.Client().Transport
	defer func() { http.DefaultTransport = transport }()
	if _, err := open(t.Context(), secure.URL+"/x"); err == nil || !strings.Contains(err.Error(), "from https to http") {
		t.Errorf("%v", err)
	}
}

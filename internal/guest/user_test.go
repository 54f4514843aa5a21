package guest

import (
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// rootfs makes a directory tree from paths and contents: "-> x" makes a symbolic link, a trailing slash a directory, "! " before
// the content an executable. It returns the directory and a descriptor of it.
func rootfs(t *testing.T, files map[string]string) (string, int) {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		if strings.HasSuffix(name, "/") {
			err = os.MkdirAll(path, 0o755)
		} else if target, ok := strings.CutPrefix(content, "-> "); ok {
			err = os.Symlink(target, path)
		} else if text, ok := strings.CutPrefix(content, "! "); ok {
			err = os.WriteFile(path, []byte(text), 0o755)
		} else {
			err = os.WriteFile(path, []byte(content), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return dir, fd
}

func TestResolveUser(t *testing.T) {
	_, fd := rootfs(t, map[string]string{
		"etc/passwd": "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001::/home/app:/bin/sh\n",
		"etc/group":  "root:x:0:\napp:x:1001:\nextra:x:2000:app,root\nother:x:3000:\n",
	})
	for spec, want := range map[string]execUser{
		"":          {UID: 0, GID: 0, home: "/root", AdditionalGids: []uint32{2000}},
		"root":      {UID: 0, GID: 0, home: "/root", AdditionalGids: []uint32{2000}},
		"app":       {UID: 1000, GID: 1001, home: "/home/app", AdditionalGids: []uint32{2000}},
		"1000":      {UID: 1000, GID: 1001, home: "/home/app", AdditionalGids: []uint32{2000}},
		"app:other": {UID: 1000, GID: 3000, home: "/home/app"},
		"app:7":     {UID: 1000, GID: 7, home: "/home/app"},
		"77:88":     {UID: 77, GID: 88, home: "/"},
		"77":        {UID: 77, GID: 0, home: "/"},
	} {
		got, err := resolveUser(fd, spec)
		if len(got.AdditionalGids) == 0 {
			got.AdditionalGids = nil
		}
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%q: %+v, %v; want %+v", spec, got, err, want)
		}
	}
	for _, spec := range []string{"nobody", "app:nogroup", "-1", "4294967296", "app:-1"} {
		if got, err := resolveUser(fd, spec); err == nil {
			t.Errorf("%q: %+v and no error", spec, got)
		}
	}
}

func TestUserFilesOfTheContainerCannotLeadOutOfIt(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "passwd")
	if err := os.WriteFile(secret, []byte("app:x:4242:4242::/secret:/bin/sh\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for name, files := range map[string]map[string]string{
		"absolute link":         {"etc/passwd": "-> " + secret},
		"relative link":         {"etc/passwd": "-> ../../../../../../../../.." + secret},
		"link of the directory": {"etc": "-> " + filepath.Dir(secret)},
	} {
		t.Run(name, func(t *testing.T) {
			_, fd := rootfs(t, files)
			if u, err := resolveUser(fd, "app"); err == nil {
				t.Errorf("read the file outside: %+v", u)
			}
		})
	}
	t.Run("a link inside is followed", func(t *testing.T) {
		_, fd := rootfs(t, map[string]string{
			"etc/passwd": "-> /usr/lib/passwd", "usr/lib/passwd": "app:x:7:8::/a:/bin/sh\n", "etc/group": "-> nowhere"})
		if u, err := resolveUser(fd, "app"); err != nil || u.UID != 7 {
			t.Errorf("%+v %v", u, err)
		}
	})
	t.Run("a FIFO does not block", func(t *testing.T) {
		dir, fd := rootfs(t, map[string]string{"etc/": ""})
		if err := unix.Mkfifo(filepath.Join(dir, "etc/passwd"), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := resolveUser(fd, "app"); err == nil {
			t.Error("no error")
		}
	})
}

func TestFilesOfTheUserAreBounded(t *testing.T) {
	dir, fd := rootfs(t, map[string]string{"etc/passwd": ""})
	if err := os.Truncate(filepath.Join(dir, "etc/passwd"), maxUserFile+1); err != nil {
		t.Fatal(err)
	}
	if r, err := openIn(fd, "etc/passwd"); err == nil {
		n, _ := io.Copy(io.Discard, r)
		t.Errorf("read %d bytes", n)
	}
}

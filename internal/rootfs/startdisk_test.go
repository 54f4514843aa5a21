package rootfs

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestHostsFilesAreCopied(t *testing.T) {
	dir, c := t.TempDir(), cache(t)
	at := func(name string) string { return filepath.Join(dir, name) }
	err := errors.Join(os.WriteFile(at("hosts"), []byte("127.0.0.1 localhost\n"), 0o640), os.Symlink("hosts", at("link")),
		os.MkdirAll(at("config/sub"), 0o755), os.WriteFile(at("config/sub/file"), []byte("deep"), 0o644), os.WriteFile(at("empty"), nil, 0o600))
	if err != nil {
		t.Fatal(err)
	}
	d, err := c.StartDisk(t.Context(), nil, []Copy{{at("hosts"), "0"}, {at("link"), "3"}, {at("config"), "7"}, {at("empty"), "8"}})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	for name, want := range map[string]string{"0": "127.0.0.1 localhost\n", "3": "127.0.0.1 localhost\n", "7/sub/file": "deep", "8": ""} {
		if got, err := readFile(t, d.Path, ".runcvm/copies/"+name); err != nil || got != want {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
}

func TestWhatCannotBeCopiedIsRefused(t *testing.T) {
	dir, c := t.TempDir(), cache(t)
	at := func(name string) string { return filepath.Join(dir, name) }
	l, err := net.Listen("unix", at("socket"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	large, err := os.Create(at("large"))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(large.Truncate(MaxCopies+1), large.Close(), unix.Mkfifo(at("fifo"), 0o600)); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"socket": "it is a socket", "fifo": "it is a FIFO", "large": "more than 256MiB in files: it is copied at each start",
		"missing": "missing is not there",
	} {
		_, err := c.StartDisk(t.Context(), nil, []Copy{{at(name), "0"}})
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), at(name)) || strings.Contains(err.Error(), "no such file") {
			t.Errorf("%s: error %v, want %q", name, err, want)
		}
	}
	if _, err := c.StartDisk(t.Context(), nil, []Copy{{"/dev/null", "0"}}); err == nil || !strings.Contains(err.Error(), "it is a device") {
		t.Errorf("device: error %v", err)
	}
	if left, err := fs.Glob(os.DirFS(c.dir), "*.erofs"); err != nil || len(left) > 0 {
		t.Errorf("left over: %q, %v", left, err)
	}
}

func TestOverlayOptionsAreRead(t *testing.T) {
	for options, want := range map[string][]lowerDir{
		"rw,lowerdir=/a:/b,upperdir=/u,workdir=/w,xino=off":                               {{path: "/a"}, {path: "/b"}},
		"rw,lowerdir=l/A:l/B,upperdir=c/diff,workdir=c/work":                              {{path: "l/A"}, {path: "l/B"}},
		"ro,lowerdir+=/a,lowerdir+=/b\\054c,datadir+=/d":                                  {{path: "/a"}, {path: "/b,c"}, {path: "/d", data: true}},
		"rw,lowerdir=/a\\134:x:/b\\040c::/data,upperdir=/u":                               {{path: "/a:x"}, {path: "/b c"}, {path: "/data", data: true}},
		"rw,lowerdir=/a,upperdir=/u,redirect_dir=on,metacopy=on,index=off,nfs_export=off": {{path: "/a"}},
	} {
		o, err := parseOverlay(options)
		if err != nil || len(o.lowers) != len(want) {
			t.Errorf("%s: %+v, %v", options, o, err)
			continue
		}
		for i, l := range o.lowers {
			if l != want[i] {
				t.Errorf("%s: lower %d is %+v, want %+v", options, i, l, want[i])
			}
		}
	}
	if o, _ := parseOverlay("lowerdir=/a,redirect_dir=on,metacopy=on,userxattr"); strings.Join(o.options, ",") != "metacopy=on,userxattr" || !o.user {
		t.Errorf("options %q", o.options)
	}
	if o, _ := parseOverlay("lowerdir=/a,redirect_dir=on"); strings.Join(o.options, ",") != "redirect_dir=follow" {
		t.Errorf("options %q", o.options)
	}
	if _, err := parseOverlay("rw,upperdir=/u"); err == nil {
		t.Error("an overlay without a lower directory was taken")
	}
}

func FuzzOverlayOptions(f *testing.F) {
	f.Add("rw,lowerdir=/a\\134:x:/b\\040c::/data,upperdir=/u")
	f.Fuzz(func(t *testing.T, options string) {
		o, err := parseOverlay(options)
		if err == nil && len(o.lowers) == 0 {
			t.Error("no lower directory, and no error")
		}
	})
}

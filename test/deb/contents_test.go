//go:build e2e

package deb

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/md5"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// member is a file of the package.
type member struct {
	*tar.Header
	content []byte
}

// contents are the package's files by their absolute paths.
func contents(t *testing.T, part, deb string) map[string]member {
	t.Helper()
	text, err := exec.Command("dpkg-deb", part, deb).Output()
	if err != nil {
		t.Fatalf("dpkg-deb %s: %v", part, err)
	}
	all := map[string]member{}
	for r := tar.NewReader(bytes.NewReader(text)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		all[path.Join("/", h.Name)] = member{h, b}
	}
}

// programs are the package's, which are for hosts and guests of any libc.
var programs = []string{"/usr/bin/runcvm", "/usr/bin/firecracker-qemu", "/usr/lib/runcvm/runcvm-guest"}

// settings is the one file that belongs to the user.
const settings = "/etc/runcvm/config.toml"

func TestFilesAreWhereTheyBelong(t *testing.T) {
	files := contents(t, "--fsys-tarfile", file(t))
	for _, name := range append([]string{
		settings,
		"/usr/share/bash-completion/completions/runcvm", "/usr/share/zsh/vendor-completions/_runcvm",
		"/usr/share/fish/vendor_completions.d/runcvm.fish",
		"/usr/share/man/man1/runcvm.1.gz",
		"/usr/share/doc/runcvm/copyright", "/usr/share/doc/runcvm/changelog.gz", "/usr/share/doc/runcvm/docker.md.gz",
	}, programs...) {
		if f, ok := files[name]; !ok || f.Typeflag != tar.TypeReg || len(f.content) == 0 {
			t.Errorf("%s is no file with something in it", name)
		}
	}
	// Nothing is where the administrator or another package puts things.
	ours := regexp.MustCompile(`^/(etc/runcvm|usr/bin|usr/lib/runcvm|usr/share/(bash-completion/completions|doc/runcvm|fish/vendor_completions\.d|` +
		`lintian/overrides|man/man1|zsh/vendor-completions))/[^/]+$`)
	for name, f := range files {
		mode := int64(0o644)
		switch {
		case f.Typeflag == tar.TypeDir:
			if f.Mode&0o7777 != 0o755 {
				t.Errorf("%s has mode %o", name, f.Mode)
			}
			continue
		case slices.Contains(programs, name):
			mode = 0o755
		}
		if f.Typeflag != tar.TypeReg || f.Mode&0o7777 != mode || f.Uid != 0 || f.Gid != 0 || !ours.MatchString(name) {
			t.Errorf("%s: type %c, mode %o, owner %d:%d", name, f.Typeflag, f.Mode, f.Uid, f.Gid)
		}
	}
	for _, name := range programs {
		program, err := elf.NewFile(bytes.NewReader(files[name].content))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if slices.ContainsFunc(program.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_INTERP }) {
			t.Errorf("%s is linked dynamically", name)
		}
	}
}

func TestEachVerbHasAManPage(t *testing.T) {
	files := contents(t, "--fsys-tarfile", file(t))
	var pages int
	for name, f := range files {
		if !strings.HasSuffix(name, ".gz") {
			continue
		}
		r, err := gzip.NewReader(bytes.NewReader(f.content))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		text, err := io.ReadAll(r)
		if err != nil || r.Name != "" || !r.ModTime.IsZero() {
			t.Errorf("%s: %v; it holds the name %q and the time %v", name, err, r.Name, r.ModTime)
		}
		if !strings.HasPrefix(name, "/usr/share/man/") {
			continue
		}
		pages++
		if !bytes.Contains(text, []byte("\n.TH ")) {
			t.Errorf("%s is no man page", name)
		}
		// What a page refers to are its verbs.
		for _, m := range regexp.MustCompile(`\\fB(runcvm[a-z-]*)\(1\)\\fP`).FindAllStringSubmatch(string(text), -1) {
			if _, ok := files["/usr/share/man/man1/"+m[1]+".1.gz"]; !ok {
				t.Errorf("%s refers to %s, which is not there", name, m[1])
			}
		}
	}
	if pages < 40 {
		t.Errorf("there are %d man pages", pages)
	}
}

func TestControlFilesTellTheTruth(t *testing.T) {
	deb := file(t)
	files, control := contents(t, "--fsys-tarfile", deb), contents(t, "--ctrl-tarfile", deb)
	if got := string(control["/conffiles"].content); got != settings+"\n" {
		t.Errorf("conffiles are %q, want the settings", got)
	}
	var sums, size int
	for name, f := range files {
		size += len(f.content)
		if f.Typeflag != tar.TypeReg || name == settings {
			continue
		}
		sums++
		if line := fmt.Sprintf("%x  %s\n", md5.Sum(f.content), name[1:]); !strings.Contains(string(control["/md5sums"].content), line) {
			t.Errorf("md5sums does not have %q", line)
		}
	}
	if got := strings.Count(string(control["/md5sums"].content), "\n"); got < sums || got > sums+1 {
		t.Errorf("md5sums has %d lines, want %d, and may have one of the settings", got, sums)
	}
	field := func(name string) string { return dpkgDeb(t, "--field", deb, name) }
	var kib int
	if _, err := fmt.Sscan(field("Installed-Size"), &kib); err != nil || kib < size>>10 || kib > size>>10+len(files)*4 {
		t.Errorf("Installed-Size is %d KiB (%v), want that of %d bytes", kib, err, size)
	}
	for name, want := range map[string]string{"Package": "runcvm", "Architecture": "amd64", "Depends": "crun, e2fsprogs"} {
		if got := field(name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	r, err := gzip.NewReader(bytes.NewReader(files["/usr/share/doc/runcvm/changelog.gz"].content))
	if err != nil {
		t.Fatal(err)
	}
	changelog, err := io.ReadAll(r)
	if err != nil || !strings.HasPrefix(string(changelog), "runcvm ("+field("Version")+") ") {
		t.Errorf("%v; the changelog is not of version %s: %.200q", err, field("Version"), changelog)
	}
}

//go:build e2e

package deb

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/runcvm/runcvm/test/engines/engine"
	"github.com/runcvm/runcvm/test/harness"
)

// system is a bare Debian in namespaces of its own, with the machine's devices.
type system struct {
	*engine.Host
	t    *testing.T
	root string
}

// mounts makes a Debian's directory a root: a mount of its own, so that it can be left by pivot_root(2), and what a kernel offers.
const mounts = `
mount --bind "$0" "$0"
mount -t proc proc "$0/proc"
mount --rbind /sys "$0/sys"
mount --rbind /dev "$0/dev"`

func newSystem(t *testing.T) *system {
	t.Helper()
	s := &system{Host: engine.NewHost(t), t: t}
	s.root = filepath.Join(s.Dir, "root")
	if err := os.Mkdir(s.root, 0o755); err != nil {
		t.Fatal(err)
	}
	harness.Unpack(t, os.Getenv("RUNCVM_TEST_IMAGE"), s.root)
	if _, err := s.Host.Run("sh", "-euc", mounts, s.root); err != nil {
		t.Fatal(err)
	}
	// debootstrap's minbase has e2fsprogs and its parts, other bare systems, as Debian's container images, do not.
	s.run("dpkg", "--purge", "--force-remove-protected", "e2fsprogs", "logsave", "libext2fs2", "libss2")
	return s
}

// path is of a file of the system, as the test sees it.
func (s *system) path(name string) string { return filepath.Join(s.root, name) }

// try runs a program of the system, without an input, and with nothing of the test's environment.
func (s *system) try(args ...string) engine.Result {
	s.t.Helper()
	return s.RunInput(nil, "env", append([]string{"-i", "HOME=/root", "LANG=C.UTF-8", "DEBIAN_FRONTEND=noninteractive",
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "chroot", s.root}, args...)...)
}

// run is try of a program that is to succeed; it returns its standard output.
func (s *system) run(args ...string) string {
	s.t.Helper()
	r := s.try(args...)
	if r.Code != 0 {
		s.t.Fatalf("%s: exit code %d\n%s%s%s", strings.Join(args, " "), r.Code, r.Stdout, r.Stderr, s.logs())
	}
	return r.Stdout
}

// logs are the monitors', for what they can tell of a failure.
func (s *system) logs() string {
	var all strings.Builder
	files, _ := filepath.Glob(s.path("var/lib/runcvm/containers/*/monitor.log"))
	for _, f := range files {
		b, _ := os.ReadFile(f)
		fmt.Fprintf(&all, "%s:\n%.4000s\n", f, b)
	}
	return all.String()
}

// read and write are of files of the system.
func (s *system) read(name string) string {
	s.t.Helper()
	b, err := os.ReadFile(s.path(name))
	if err != nil {
		s.t.Fatal(err)
	}
	return string(b)
}

func (s *system) write(name, text string) {
	s.t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(s.path(name)), 0o755), os.WriteFile(s.path(name), []byte(text), 0o644)); err != nil {
		s.t.Fatal(err)
	}
}

// bring copies a file of the machine into the system.
func (s *system) bring(from, to string) {
	s.t.Helper()
	b, err := os.ReadFile(from)
	if err != nil {
		s.t.Fatal(err)
	}
	s.write(to, string(b))
}

// status is dpkg's of the package, empty where it knows of none.
func (s *system) status() string {
	return strings.TrimSpace(s.try("dpkg-query", "-W", "-f", "${db:Status-Abbrev}", "runcvm").Stdout)
}

// bookkeeping is what dpkg and apt note of what they do.
var bookkeeping = []string{"var/lib/dpkg", "var/lib/apt", "var/cache/apt", "var/cache/debconf", "var/cache/ldconfig", "var/log", "etc/ld.so.cache"}

// files are all of the system, as they are on its disk, but those of other packages and what was noted of packages.
func (s *system) files() []string {
	s.t.Helper()
	others := map[string]bool{}
	lists, err := filepath.Glob(s.path("var/lib/dpkg/info/*.list"))
	if err != nil || len(lists) == 0 {
		s.t.Fatalf("dpkg has no lists: %v", err)
	}
	for _, list := range lists {
		b, err := os.ReadFile(list)
		if err != nil {
			s.t.Fatal(err)
		}
		for line := range strings.Lines(string(b)) {
			if filepath.Base(list) != "runcvm.list" {
				others[s.canonical(strings.TrimSpace(line))] = true
			}
		}
	}
	var all []string
	err = filepath.WalkDir(s.root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := strings.TrimPrefix(strings.TrimPrefix(path, s.root), "/")
		if slices.Contains(bookkeeping, name) {
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		if name != "" && !others[name] {
			all = append(all, name)
		}
		return nil
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return all
}

// canonical is a path as in a package's list without the links of a merged /usr, as /lib is one.
func (s *system) canonical(path string) string {
	path = strings.TrimPrefix(path, "/")
	first, rest, ok := strings.Cut(path, "/")
	if target, err := os.Readlink(s.path(first)); ok && err == nil {
		return filepath.Join(target, rest)
	}
	return path
}

// same fails the test where there are other files than before.
func (s *system) same(before []string) {
	s.t.Helper()
	after := s.files()
	for _, name := range after {
		if _, ok := slices.BinarySearch(before, name); !ok {
			s.t.Errorf("/%s is left", name)
		}
	}
	for _, name := range before {
		if _, ok := slices.BinarySearch(after, name); !ok {
			s.t.Errorf("/%s is gone", name)
		}
	}
}

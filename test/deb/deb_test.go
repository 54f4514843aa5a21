//go:build e2e

// Package deb looks into the Debian package, and installs, upgrades and removes it on a bare Debian. RUNCVM_TEST_DEB is the package,
// which "make deb" makes. One test boots one guest.
package deb

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/runcvm/runcvm/test/engines/engine"
)

func TestMain(m *testing.M) { engine.Main(m) }

// file is the package under test.
func file(t *testing.T) string {
	t.Helper()
	path := os.Getenv("RUNCVM_TEST_DEB")
	if path == "" {
		t.Fatal("RUNCVM_TEST_DEB is not set: run the e2e suites by make test-e2e")
	}
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("%v: run make deb", err)
	}
	return path
}

// dpkgDeb runs dpkg-deb and returns what it prints, without white space at the end.
func dpkgDeb(t *testing.T, args ...string) string {
	t.Helper()
	cmd := exec.Command("dpkg-deb", args...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("dpkg-deb %s: %v: %s", strings.Join(args, " "), err, stderr.String())
	}
	return strings.TrimRight(string(out), " \n")
}

const (
	// nextVersion is that of the package that next makes.
	nextVersion = "1000.0.0"
	// nextSettings is what its file of settings has more.
	nextSettings = "\n# A setting of the next version.\n"
)

// next makes a package of a later version, whose file of settings is another.
func next(t *testing.T, deb string) string {
	t.Helper()
	dir := t.TempDir()
	tree, out := filepath.Join(dir, "tree"), filepath.Join(dir, "next.deb")
	dpkgDeb(t, "--raw-extract", deb, tree)
	change := func(name string, to func(string) string) {
		path := filepath.Join(tree, name)
		b, err := os.ReadFile(path)
		if err == nil {
			err = os.WriteFile(path, []byte(to(string(b))), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	change("DEBIAN/control", func(text string) string {
		return strings.Replace(text, "\nVersion: "+dpkgDeb(t, "--field", deb, "Version")+"\n", "\nVersion: "+nextVersion+"\n", 1)
	})
	change("etc/runcvm/config.toml", func(text string) string { return text + nextSettings })
	dpkgDeb(t, "--root-owner-group", "-Znone", "--build", tree, out)
	return out
}

//go:build e2e

package deb

import (
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// The archive of a system has the machine's own packages: "apt-get install ./runcvm.deb" is what people do, and its choice of what
// comes along is a part of what is tested, but no test asks a server. A package is made anew from its installed files, without its
// scripts, when apt wants it.
const archive = "srv/archive"

// stanza is what dpkg notes of a package of the machine, and an archive's index of one that it has.
type stanza struct {
	name   string
	fields string
}

// notIndexed are fields that only an installed package has.
var notIndexed = regexp.MustCompile(`(?m)^(Status|Conffiles|Config-Version):.*\n( .*\n)*`)

// installed are the machine's packages.
func installed(t *testing.T) []stanza {
	t.Helper()
	b, err := os.ReadFile("/var/lib/dpkg/status")
	if err != nil {
		t.Fatal(err)
	}
	var all []stanza
	for text := range strings.SplitSeq(strings.TrimSpace(string(b)), "\n\n") {
		name, _, _ := strings.Cut(strings.TrimPrefix(text, "Package: "), "\n")
		// This machine may have the package under test.
		if strings.Contains(text, "\nStatus: install ok installed\n") && name != "runcvm" {
			all = append(all, stanza{name, notIndexed.ReplaceAllString(text+"\n", "")})
		}
	}
	return all
}

// serve gives the system an archive from which the package and what it depends on and recommends can be installed.
func (s *system) serve(deb string) {
	s.t.Helper()
	all := installed(s.t)
	s.write("etc/apt/sources.list", "deb [trusted=yes] file:/"+archive+" ./\n")
	// Nothing of it has to survive a power failure.
	s.write("etc/dpkg/dpkg.cfg.d/test", "force-unsafe-io\n")
	index := func(describe func(stanza) string) {
		var text strings.Builder
		for _, p := range all {
			fmt.Fprintf(&text, "%sFilename: ./%s.deb\n%s\n", p.fields, p.name, describe(p))
		}
		s.write(archive+"/Packages", text.String())
		s.run("apt-get", "-q", "update")
	}
	index(func(stanza) string { return fmt.Sprintf("Size: 1\nSHA256: %064x\n", 0) })
	wanted := regexp.MustCompile(`(?m)^'file:\S*/(\S+)\.deb'`).FindAllStringSubmatch(s.run("apt-get", "install", "--yes", "--print-uris", deb), -1)
	all = slices.DeleteFunc(all, func(p stanza) bool {
		return !slices.ContainsFunc(wanted, func(m []string) bool { return m[1] == p.name })
	})
	index(func(p stanza) string {
		b := repack(s.t, p, s.path(archive))
		return fmt.Sprintf("Size: %d\nSHA256: %x\n", len(b), sha256.Sum256(b))
	})
}

// leftOut is what the Debian image does without, and the links of a merged /usr, which some package has as its directories.
var leftOut = regexp.MustCompile("^/usr/share/(doc|info|locale|man)/|^/(bin|lib(32|64|x32)?|sbin)$")

// repack makes a package of a machine's installed one, in a directory, and returns its content.
func repack(t *testing.T, p stanza, dir string) []byte {
	t.Helper()
	work, out := t.TempDir(), filepath.Join(dir, p.name+".deb")
	if err := os.Mkdir(filepath.Join(work, "DEBIAN"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(work, "DEBIAN/control"), []byte(p.fields), 0o644); err != nil {
		t.Fatal(err)
	}
	list, err := exec.Command("dpkg-query", "-L", p.name).Output()
	if err != nil {
		t.Fatalf("dpkg-query -L %s: %v", p.name, err)
	}
	var files []string
	for path := range strings.Lines(string(list)) {
		path = strings.TrimSpace(path)
		// Directories come with what is in them. A machine, too, may have left out files.
		if info, err := os.Lstat(path); err == nil && !info.IsDir() && !leftOut.MatchString(path) {
			files = append(files, path)
		}
	}
	const script = `tar -C / --no-recursion -cf - -T - 2>/dev/null | tar -C "$0" -xpf - && dpkg-deb -Znone --build "$0" "$1" >/dev/null`
	cmd := exec.Command("bash", "-o", "pipefail", "-c", script, work, out)
	cmd.Stdin = strings.NewReader(strings.Join(files, "\n"))
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("make a package of %s: %v: %s", p.name, err, text)
	}
	b, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/runcvm/runcvm/internal/cli"
)

func TestTheDocumentationIsWhatItIsMadeOf(t *testing.T) {
	for file, made := range map[string]struct {
		of   string
		text func() ([]byte, error)
	}{
		"command.md":     {"the commands, flags and settings", func() ([]byte, error) { return commandMarkdown(cli.Command()) }},
		"oci-runtime.md": {"internal/bundle's table", runtimeMarkdown},
		"differences.md": {"test/engines' table of differences", differencesMarkdown},
	} {
		want, err := made.text()
		if err != nil {
			t.Fatal(err)
		}
		have, err := os.ReadFile("../../docs/" + file)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(want, have) {
			t.Errorf("docs/%s is not what %s says now (or was in conflict): run \"make docs\" and commit it", file, made.of)
		}
	}
}

func TestManPagesAndCompletionsAreMadeOfEveryVerb(t *testing.T) {
	dir := t.TempDir()
	if err := manPages(cli.Command(), dir); err != nil {
		t.Fatal(err)
	}
	if err := completions(cli.Command(), dir); err != nil {
		t.Fatal(err)
	}
	for _, v := range verbs(cli.Command()) {
		page, err := os.ReadFile(filepath.Join(dir, "runcvm-"+strings.ReplaceAll(v.Path, " ", "-")+".1"))
		if err != nil || !strings.Contains(string(page), ".SH SYNOPSIS") {
			t.Errorf("the page of %s: %v", v.Path, err)
		}
	}
	page, err := os.ReadFile(filepath.Join(dir, "runcvm.1"))
	for _, part := range []string{"EXIT CODES", "SETTINGS", "data_dir", "FILES", "rootfs.ext4"} {
		if err != nil || !strings.Contains(string(page), part) {
			t.Errorf("runcvm.1 lacks %s (%v)", part, err)
		}
	}
	// What a shell cannot read would break every new shell of a user.
	if out, err := exec.Command("bash", "-n", filepath.Join(dir, "runcvm")).CombinedOutput(); err != nil {
		t.Errorf("bash does not read its completion: %v: %s", err, out)
	}
}

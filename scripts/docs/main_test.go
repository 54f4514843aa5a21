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

func TestTheDocumentationIsWhatTheCommandSays(t *testing.T) {
	want, err := commandMarkdown(cli.Command())
	if err != nil {
		t.Fatal(err)
	}
	have, err := os.ReadFile("../../docs/command.md")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(want, have) {
		t.Error("docs/command.md is not what the commands, flags and settings say now (or was in conflict): run \"make docs\" and commit it")
	}
}

func TestTheDocumentationOfBundlesIsTheirTable(t *testing.T) {
	want, err := runtimeMarkdown()
	if err != nil {
		t.Fatal(err)
	}
	have, err := os.ReadFile("../../docs/oci-runtime.md")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(want, have) {
		t.Error("docs/oci-runtime.md is not what internal/bundle's table says now (or was in conflict): run \"make docs\" and commit it")
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

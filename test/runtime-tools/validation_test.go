// Package runtimetools runs the validation programs of opencontainers/runtime-tools against runcvm, and compares what it prints with the
// runtime specification's JSON schemas. The environment says where things are:
//
//	RUNCVM_BIN                    the programs of RunCVM
//	RUNCVM_TEST_RUNTIME_TOOLS        the programs of runtime-tools, built
//	RUNCVM_TEST_RUNTIME_TOOLS_SOURCE the module of runtime-tools
//	RUNCVM_TEST_RUNTIME_TOOLS_ALL    not empty: not only the programs that make test runs
//	RUNCVM_TEST_SCHEMA               the directory of the runtime specification's schemas
package runtimetools

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// deadline is what one program may take: most boot one guest, some ten.
const deadline = 5 * time.Minute

func env(t *testing.T, name string) string {
	t.Helper()
	v := os.Getenv(name)
	if v == "" {
		t.Fatalf("%s is not set: run this by make test-runtime-tools", name)
	}
	return v
}

// module is where the source of runtime-tools lies.
func module(t *testing.T) string {
	t.Helper()
	return env(t, "RUNCVM_TEST_RUNTIME_TOOLS_SOURCE")
}

// program is a row of programs.md.
type program struct{ name, result, where, reason string }

// Results, and where a program that passes is run; the Makefile reads the last.
const (
	pass          = "pass"
	notApplicable = "not applicable"
	everyTest     = "make test"
	allPrograms   = "make test-runtime-tools"
)

// withV1 begins the reason of a program that applies to hosts that have cgroup v1.
const withV1 = "with cgroup v1"

// applies says whether a program is one that passes on this host.
func (p program) applies() bool {
	_, err := os.Stat("/sys/fs/cgroup/pids")
	return p.result == pass && (err == nil || !strings.HasPrefix(p.reason, withV1))
}

func programs(t *testing.T) []program {
	t.Helper()
	text, err := os.ReadFile("programs.md")
	if err != nil {
		t.Fatal(err)
	}
	var all []program
	for line := range strings.Lines(string(text)) {
		cells := strings.Split(strings.TrimSpace(line), "|")
		if len(cells) != 6 || strings.TrimSpace(cells[1]) == "program" || strings.Contains(cells[1], "---") {
			continue
		}
		for i := range cells {
			cells[i] = strings.Trim(cells[i], " `")
		}
		all = append(all, program{cells[1], cells[2], cells[3], cells[4]})
	}
	return all
}

func TestTheTableHasEveryProgram(t *testing.T) {
	entries, err := os.ReadDir(filepath.Join(module(t), "validation"))
	if err != nil {
		t.Fatal(err)
	}
	var there, listed []string
	for _, e := range entries {
		if e.IsDir() && e.Name() != "util" {
			there = append(there, e.Name())
		}
	}
	for _, p := range programs(t) {
		listed = append(listed, p.name)
		run := p.result == pass && slices.Contains([]string{everyTest, allPrograms}, p.where)
		if !run && (p.result != notApplicable || p.where != "" || p.reason == "") {
			t.Errorf("%s is %q in %q because of %q", p.name, p.result, p.where, p.reason)
		}
	}
	if !slices.Equal(there, listed) {
		t.Errorf("there are %q, the table has %q", there, listed)
	}
}

// runtime is a program that is runcvm with directories of its own.
func runtime(t *testing.T) string {
	t.Helper()
	bin := env(t, "RUNCVM_BIN")
	// Short: sockets lie in it.
	dir, err := os.MkdirTemp("", "rt")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	vmm := os.Getenv("RUNCVM_VMM")
	if vmm == "" {
		vmm = filepath.Join(bin, "firecracker-qemu")
	}
	script := fmt.Sprintf("#!/bin/sh\nexport RUNCVM_CONFIG=/dev/null RUNCVM_DATA_DIR=%[1]s/d RUNCVM_RUN_DIR=%[1]s/r RUNCVM_VMM=%[2]s\n"+
		"exec %[3]s/runcvm --root %[1]s/oci \"$@\"\n", dir, vmm, bin)
	path := filepath.Join(dir, "runtime")
	if err := os.WriteFile(path, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestProgramsThatApply(t *testing.T) {
	rt := runtime(t)
	built := env(t, "RUNCVM_TEST_RUNTIME_TOOLS")
	archive := filepath.Join(module(t), "rootfs-amd64.tar.gz")
	for _, p := range programs(t) {
		if !p.applies() || os.Getenv("RUNCVM_TEST_RUNTIME_TOOLS_ALL") == "" && p.where != everyTest {
			continue
		}
		t.Run(p.name, func(t *testing.T) {
			// A program finds the root's archive and runtimetest in its working directory.
			dir := t.TempDir()
			for _, file := range []string{archive, filepath.Join(built, "runtimetest")} {
				if out, err := exec.Command("cp", file, dir).CombinedOutput(); err != nil {
					t.Fatalf("%v: %s", err, out)
				}
			}
			ctx, cancel := context.WithTimeout(t.Context(), deadline)
			defer cancel()
			var stdout, stderr strings.Builder
			cmd := exec.CommandContext(ctx, filepath.Join(built, p.name))
			cmd.Dir = dir
			cmd.Env = append(os.Environ(), "RUNTIME="+rt, "TMPDIR="+dir)
			cmd.Stdout, cmd.Stderr = &stdout, &stderr
			err := cmd.Run()
			if f := fault(stdout.String(), stderr.String()); err != nil || f != "" {
				t.Errorf("%s (%v)\n%s\n%s", f, err, stdout.String(), stderr.String())
			}
		})
	}
}

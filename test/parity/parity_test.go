//go:build e2e

// Package parity compares what a process finds under RunCVM with what it finds under runc, when both are asked for the same in
// Docker's words.
//
// The control's bundle is made by rules of its own, which are dockerd's, and shares no code with RunCVM. What differs must be in
// testdata/differences.json, an entry a reason; an entry that no case needs fails too.
package parity

import (
	"encoding/json"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/runcvm/runcvm/test/control"
	"github.com/runcvm/runcvm/test/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }

// image is the Debian image with the probe.
const image = "parity:1"

// probeCommand runs the probe; see its own comment.
func probeCommand(args []string) []string {
	return append([]string{"/bin/sh", "-c", `exec /probe "$(cat /proc/self/status /proc/self/limits)" "$@"`, "sh"}, args...)
}

func TestAProcessFindsTheSameAsUnderRunc(t *testing.T) {
	h := harness.New(t)
	probe, err := os.ReadFile(harness.Program(t, "probe"))
	if err != nil {
		t.Fatal(err)
	}
	h.Derive(image, map[string]string{"probe": string(probe)}, nil)
	list := readDifferences(t)
	runc := control.New(t, os.Getenv("RUNCVM_TEST_IMAGE"))
	if err := os.WriteFile(filepath.Join(runc.Rootfs, "probe"), probe, 0o755); err != nil {
		t.Fatal(err)
	}
	files := t.TempDir()
	var ran atomic.Int64
	// The group ends when all of its cases have.
	t.Run("case", func(t *testing.T) {
		for _, tc := range cases {
			t.Run(tc.name, func(t *testing.T) {
				t.Parallel() // two guests at a time on two processors
				h := h.For(t)
				args := append([]string{"run", "--rm", "--hostname", control.Hostname}, tc.flags...)
				if tc.file != "" {
					path := filepath.Join(files, tc.name)
					if err := os.WriteFile(path, []byte(tc.file), 0o600); err != nil {
						t.Fatal(err)
					}
					args = append(args, tc.fileFlag+path)
				}
				args = append(append(args, image), probeCommand(tc.args)...)
				ours := decode(t, []byte(h.MustRun(args...)))
				runcs := decode(t, runc.Run(t, probeCommand(tc.args), tc.seccomp, func(s *specs.Spec) {
					if tc.docker != nil {
						tc.docker(runc, s)
					}
				}))
				list.compare(t, runc, tc.name, runcs, ours)
				ran.Add(1)
			})
		}
	})
	if int(ran.Load()) == len(cases) && !t.Failed() {
		list.reportUnused(t)
	}
}

func decode(t *testing.T, b []byte) map[string]string {
	t.Helper()
	var tree any
	if err := json.Unmarshal(b, &tree); err != nil {
		t.Fatalf("%v: %.2000s", err, b)
	}
	flat := map[string]string{}
	flatten(flat, "", tree)
	return flat
}

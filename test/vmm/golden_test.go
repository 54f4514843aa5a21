package vmm

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
)

var (
	vmmFlag = flag.String("vmm", os.Getenv("RUNCVM_VMM"), "the VMM to test; empty builds firecracker-qemu")
	record  = flag.Bool("record", os.Getenv("RUNCVM_TEST_RECORD") != "", "write what -vmm answers as the recording of its version")
	noBoot  = flag.Bool("no-boot", false, "with -record: keep the recordings of cases that boot a guest")
)

// binary is the VMM under test, and whether it is the one of this repository.
func binary(t *testing.T) (path string, ours bool) {
	t.Helper()
	if *vmmFlag != "" {
		return *vmmFlag, bytes.Contains(versionText(t, *vmmFlag), []byte("firecracker-qemu"))
	}
	return emulator(t), true
}

// built is where TestMain lets firecracker-qemu be built, once.
var built struct {
	once sync.Once
	dir  string
	out  []byte
	err  error
}

func TestMain(m *testing.M) {
	flag.Parse()
	dir, err := os.MkdirTemp("", "vmm-test-")
	if err != nil {
		panic(err)
	}
	built.dir = dir
	code := m.Run()
	if err := os.RemoveAll(dir); err != nil {
		panic(err)
	}
	os.Exit(code)
}

// emulator is firecracker-qemu, whatever the VMM under test: the one of RUNCVM_BIN, or a fresh build.
func emulator(t *testing.T) string {
	t.Helper()
	if dir := os.Getenv("RUNCVM_BIN"); dir != "" {
		return filepath.Join(dir, "firecracker-qemu")
	}
	path := filepath.Join(built.dir, "firecracker-qemu")
	built.once.Do(func() {
		built.out, built.err = exec.Command("go", "build", "-o", path, "github.com/runcvm/runcvm/cmd/firecracker-qemu").CombinedOutput()
	})
	if built.err != nil {
		t.Fatalf("build firecracker-qemu: %v\n%s", built.err, built.out)
	}
	return path
}

func versionText(t *testing.T, path string) []byte {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), path, "--version").Output()
	if err != nil {
		t.Fatalf("%s --version: %v", path, err)
	}
	return out
}

func recordingPath(version string) string { return filepath.Join("testdata", "v"+version+".json") }

func readJSON(t *testing.T, path string, into any) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, into); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
}

func TestGolden(t *testing.T) {
	vmm, ours := binary(t)
	version, err := Version(t.Context(), vmm)
	if err != nil {
		t.Fatal(err)
	}
	if *record {
		recordGolden(t, vmm, version)
		return
	}
	var golden Recording
	readJSON(t, recordingPath(version), &golden)
	if ours {
		var differences Differences
		readJSON(t, filepath.Join("testdata", "differences.json"), &differences)
		apply(t, &golden, differences)
	}
	for _, c := range Cases() {
		t.Run(c.Name, func(t *testing.T) {
			answers, err := Run(t.Context(), vmm, c)
			if err != nil {
				t.Fatal(err)
			}
			compare(t, answers, golden.Cases[c.Name])
		})
	}
	for _, c := range Commands() {
		t.Run("command line: "+c.Name, func(t *testing.T) {
			ended, err := RunCommand(t.Context(), vmm, c)
			if err != nil {
				t.Fatal(err)
			}
			if want := golden.Commands[c.Name]; ended != want {
				t.Errorf("%q ends with %s, recorded is %q", c.Args, ended, want)
			}
		})
	}
}

// apply puts the differences into the recording; a difference that is none is an error.
func apply(t *testing.T, golden *Recording, differences Differences) {
	t.Helper()
	for _, d := range differences.Answers {
		answers := golden.Cases[d.Case]
		if d.Step >= len(answers) {
			t.Errorf("differences.json: %q has no step %d", d.Case, d.Step)
			continue
		}
		a := &answers[d.Step]
		if d.Reason == "" || a.Status == d.Status && a.Deprecated == d.Deprecated && sameBody(a.Body, d.Body) {
			t.Errorf("differences.json: %q step %d has no reason, or is what Firecracker answers", d.Case, d.Step)
		}
		a.Status, a.Deprecated, a.Body = d.Status, d.Deprecated, d.Body
	}
	for _, d := range differences.Commands {
		if ends := golden.Commands[d.Command]; d.Reason == "" || ends == "" || ends == d.Ends {
			t.Errorf("differences.json: the command %q has no reason, or ends as Firecracker does", d.Command)
		}
		golden.Commands[d.Command] = d.Ends
	}
}

func sameBody(a, b json.RawMessage) bool {
	var ca, cb bytes.Buffer
	if len(a) == 0 || len(b) == 0 {
		return len(a) == len(b)
	}
	return json.Compact(&ca, a) == nil && json.Compact(&cb, b) == nil && bytes.Equal(ca.Bytes(), cb.Bytes())
}

func compare(t *testing.T, got, want []Answer) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%d steps, %d recorded: record again", len(got), len(want))
	}
	for k, g := range got {
		w := want[k]
		switch {
		case g.Request != w.Request:
			t.Fatalf("step %d is %s, recorded was %s: record again", k, g.Request, w.Request)
		case g.Status != w.Status || g.Deprecated != w.Deprecated || !sameBody(g.Body, w.Body):
			t.Errorf("step %d: %s\n got %d %v %s\nwant %d %v %s", k, g.Request, g.Status, g.Deprecated, g.Body, w.Status, w.Deprecated, w.Body)
		}
	}
}

func recordGolden(t *testing.T, vmm, version string) {
	old := Recording{Cases: map[string][]Answer{}}
	if _, err := os.Stat(recordingPath(version)); err == nil {
		readJSON(t, recordingPath(version), &old)
	}
	fresh := Recording{Version: version, Cases: map[string][]Answer{}, Commands: map[string]string{}}
	for _, c := range Cases() {
		if c.Boots && *noBoot {
			if kept, ok := old.Cases[c.Name]; ok {
				fresh.Cases[c.Name] = kept
			}
			continue
		}
		answers, err := Run(t.Context(), vmm, c)
		if err != nil {
			t.Fatalf("%s: %v", c.Name, err)
		}
		fresh.Cases[c.Name] = answers
	}
	for _, c := range Commands() {
		if c.Boots && *noBoot {
			fresh.Commands[c.Name] = old.Commands[c.Name]
			continue
		}
		ended, err := RunCommand(t.Context(), vmm, c)
		if err != nil {
			t.Fatalf("%s: %v", c.Name, err)
		}
		fresh.Commands[c.Name] = ended
	}
	path := recordingPath(version)
	if dir := os.Getenv("RUNCVM_ARTIFACTS"); dir != "" {
		path = filepath.Join(dir, filepath.Base(path))
	}
	if err := WriteRecording(path, fresh); err != nil {
		t.Fatal(err)
	}
	t.Logf("recorded %d cases in %s", len(fresh.Cases), path)
}

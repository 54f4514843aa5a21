//go:build e2e

// Package limits shows that a container's limits hold, that all of them can be used, and that its sandbox answers whatever the
// container does with them.
package limits

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/runcvm/runcvm/test/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }

// image is the Debian image with the program of test/programs/load.
const image = "limits:1"

// newHost returns a host with the image, which goes at the end of the test.
func newHost(t *testing.T) *harness.Host {
	t.Helper()
	h := harness.New(t)
	load, err := os.ReadFile(harness.Program(t, "load"))
	if err != nil {
		t.Fatal(err)
	}
	h.Derive(image, map[string]string{"load": string(load)}, nil)
	return h
}

func TestMemory(t *testing.T) {
	h := newHost(t)
	// What the cgroup counts beside the program's pages: page tables, the shell, the programs' files as they are read.
	const beside = 10
	t.Run("a limit can be used to the end, and not beyond", func(t *testing.T) {
		for _, limit := range []int{64, 640, 1536} {
			t.Run(fmt.Sprint(limit), func(t *testing.T) {
				t.Parallel()
				script := fmt.Sprintf("/load memory %d && exec /load memory %d", limit-beside, limit+beside)
				h.ExpectRun(t, 137, fmt.Sprintf("took %d\n", limit-beside), "run", "--name", fmt.Sprint("memory-", limit),
					"-m", fmt.Sprintf("%dm", limit), image, "sh", "-c", script)
				expectOOM(t, h, fmt.Sprint("memory-", limit))
			})
		}
	})
	t.Run("without a limit the guest's memory can be used, and the agent lives on", func(t *testing.T) {
		h.Env = []string{"RUNCVM_MEMORY=256MiB"}
		h.ExpectRun(t, 0, "took 120\n137\n", "run", "--name", "memory-guest", image, "sh", "-c",
			"exec 2>/dev/null; /load memory 120; /load memory 400; echo $?")
		expectOOM(t, h, "memory-guest")
	})
}

// expectOOM looks for the end by lack of memory in what is known of the container, and removes it.
func expectOOM(t *testing.T, h *harness.Host, name string) {
	t.Helper()
	var inspected []struct {
		State struct{ OOMKilled bool }
	}
	if err := json.Unmarshal([]byte(h.MustRun("inspect", name)), &inspected); err != nil {
		t.Fatal(err)
	}
	if len(inspected) != 1 || !inspected[0].State.OOMKilled {
		t.Errorf("inspect says %+v", inspected)
	}
	h.MustRun("rm", name)
}

func TestProcessors(t *testing.T) {
	h := newHost(t)
	var used struct {
		Elapsed   float64 `json:"elapsed_usec"`
		Usage     float64 `json:"usage_usec"`
		Throttled int     `json:"nr_throttled"`
	}
	if err := json.Unmarshal([]byte(h.MustRun("run", "--rm", "--cpus", "0.5", image, "/load", "cpu", "5")), &used); err != nil {
		t.Fatal(err)
	}
	if share := used.Usage / used.Elapsed; share > 0.6 || share <= 0 {
		t.Errorf("--cpus 0.5 used %.2f processors: %+v", share, used)
	}
	if used.Throttled == 0 {
		t.Errorf("--cpus 0.5 was not throttled: %+v", used)
	}
}

func TestProcesses(t *testing.T) {
	h := newHost(t)
	for name, flags := range map[string][]string{
		"a fork bomb under a limit": {"--pids-limit", "50"},
		// The guest is the limit then. A further process in the container waits for its turn among a thousand, as anywhere; the
		// container can be stopped all the same.
		"a fork bomb without one": nil,
	} {
		t.Run(name, func(t *testing.T) {
			h := h.For(t)
			id := strings.TrimSpace(h.MustRun(append(append([]string{"run", "-d"}, flags...), image, "/load", "processes")...))
			harness.Eventually(t, harness.Patience, func() error {
				if logs := h.MustRun("logs", id); !strings.Contains(logs, "full:") {
					return fmt.Errorf("the bomb is not at its limit: %q", logs)
				}
				return nil
			})
			if flags != nil {
				if n := strings.TrimSpace(h.MustRun("exec", id, "cat", "/sys/fs/cgroup/pids.max")); n != "50" {
					t.Errorf("the limit is %s", n)
				}
				if top := h.MustRun("top", id); !strings.Contains(top, "/load processes") {
					t.Errorf("top says:\n%.500s", top)
				}
			}
			h.MustRun("stop", "-t", "0", id)
			h.MustRun("rm", id)
		})
	}
}

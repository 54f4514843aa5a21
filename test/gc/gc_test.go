//go:build e2e

// Package gc leaves all kinds of garbage on a host, has runcvm gc show and remove it, and starts containers meanwhile.
package gc

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/runcvm/runcvm/test/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }

// row is what gc --format json prints of an item.
type row struct {
	Kind, Why, Path string
	Bytes           int64
}

func collect(t *testing.T, h *harness.Host, args ...string) []row {
	t.Helper()
	var rows []row
	for line := range strings.Lines(h.MustRun(append([]string{"gc", "--format", "json"}, args...)...)) {
		var r row
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		rows = append(rows, r)
	}
	return rows
}

func paths(rows []row) []string {
	var all []string
	for _, r := range rows {
		all = append(all, r.Path)
	}
	slices.Sort(all)
	return all
}

// record reads what is kept of a container, without a verb that would clean up.
func record(t *testing.T, h *harness.Host, id string) harness.Record {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(h.DataDir, "containers", id, "state.json"))
	if err != nil {
		t.Fatal(err)
	}
	var r harness.Record
	if err := json.Unmarshal(b, &r); err != nil {
		t.Fatal(err)
	}
	return r
}

// old makes a path look as if nobody had touched it for days.
func old(t *testing.T, path string) {
	t.Helper()
	then := time.Now().Add(-48 * time.Hour)
	if err := os.Chtimes(path, then, then); err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, path string) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("garbage"), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestGarbageIsShownThenRemovedAndWhatLivesStays(t *testing.T) {
	h := harness.New(t)
	live := strings.TrimSpace(h.MustRun("run", "-d", "--name", "live", harness.Image, "sleep", "1000"))
	dead := strings.TrimSpace(h.MustRun("run", "-d", "--rm", "--name", "dead", "-e", "RUNCVM_CACHE_KEY=of-its-own", harness.Image, "sleep", "1000"))
	monitor := record(t, h, dead).Pid
	vmm := h.VMM(harness.Record{Pid: monitor})
	harness.Kill(t, monitor, syscall.SIGKILL)
	harness.Eventually(t, harness.Soon, func() error {
		if harness.Alive(monitor) || harness.Alive(vmm) {
			return errors.New("the killed monitor or its VMM lives")
		}
		return nil
	})

	id := strings.Repeat("e", 64)
	orphan := filepath.Join(h.RunDir, id)
	write(t, filepath.Join(orphan, "file"))
	old(t, orphan)
	name := filepath.Join(h.DataDir, "names", "nothing")
	if err := os.Symlink(id, name); err != nil {
		t.Fatal(err)
	}
	entry := filepath.Join(h.DataDir, "kernels", "initramfs-"+id[:32])
	write(t, filepath.Join(entry, "initramfs.cpio"))
	old(t, entry)
	want := []string{
		filepath.Join(h.DataDir, "containers", dead), orphan, name, entry,
		write(t, filepath.Join(h.DataDir, "disks", "build-1.erofs")),
		write(t, filepath.Join(h.DataDir, "images", "blobs", "sha256", id)),
		write(t, filepath.Join(h.DataDir, "images", "partial", id)),
		filepath.Dir(write(t, filepath.Join(h.DataDir, "images", "tmp", "import-1", "blob"))),
	}
	// The disk of the dead container's image, which had a key of its own.
	disks := h.MustRun("cache", "ls", "--no-trunc", "--format", "{{.Key}} {{.InUse}}")
	for line := range strings.Lines(disks) {
		if key, used, _ := strings.Cut(strings.TrimSpace(line), " "); used == "false" {
			want = append(want, filepath.Join(h.DataDir, "disks", key+".erofs"))
		}
	}
	slices.Sort(want)

	shown := collect(t, h)
	if got := paths(shown); !slices.Equal(got, want) {
		t.Fatalf("gc shows\n%s\nwant\n%s\nof the disks\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"), disks)
	}
	for _, r := range shown {
		if _, err := os.Lstat(r.Path); err != nil {
			t.Errorf("shown only, and gone: %v", err)
		}
		if r.Kind == "" || r.Why == "" {
			t.Errorf("%+v says too little", r)
		}
	}
	if table := h.MustRun("gc"); !strings.Contains(table, "runcvm gc --yes") || !strings.Contains(table, "run with --rm") {
		t.Errorf("gc prints %s", table)
	}
	if got := paths(collect(t, h, "--yes")); !slices.Equal(got, want) {
		t.Errorf("gc --yes removes\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	for _, path := range want {
		if _, err := os.Lstat(path); err == nil {
			t.Errorf("%s is still there", path)
		}
	}
	if left := h.MustRun("gc", "--quiet"); left != "" {
		t.Errorf("a second look finds %s", left)
	}
	if r := record(t, h, live); r.State != "running" || !harness.Alive(r.Pid) {
		t.Errorf("what lives is %+v", r)
	}
	if out := h.MustRun("exec", "live", "cat", "/etc/debian_version"); !strings.HasPrefix(out, "12") {
		t.Errorf("exec prints %q", out)
	}
	h.MustRun("rm", "-f", "live")
}

func TestContainersStartWhileGarbageIsCollected(t *testing.T) {
	h := harness.New(t)
	// Kernels that are there look as if they had long been unused: a start has to claim or make them.
	entries, err := filepath.Glob(filepath.Join(h.DataDir, "kernels", "*-*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		old(t, e)
	}
	stop := make(chan struct{})
	var collector sync.WaitGroup
	collections := 0
	collector.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			if r := h.Run("gc", "--yes"); r.Code != 0 || r.Stderr != "" {
				t.Errorf("gc: exit code %d, %s", r.Code, r.Stderr)
				return
			}
			collections++
			time.Sleep(20 * time.Millisecond) // the guests want the processors, too
		}
	})
	for i := range 3 {
		want := fmt.Sprintf("run %d\n", i)
		if r := h.Run("run", "--rm", harness.Image, "echo", strings.TrimSpace(want)); r.Code != 0 || r.Stdout != want || r.Stderr != "" {
			t.Errorf("exit code %d, stdout %q, stderr %q", r.Code, r.Stdout, r.Stderr)
		}
	}
	close(stop)
	collector.Wait()
	t.Logf("%d collections", collections)
}

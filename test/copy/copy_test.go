//go:build e2e

// Package copy tests runcvm cp on real guests. The table of docker cp's rules itself is package filecopy's, which needs none.
package copy

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/runcvm/runcvm/test/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func shell(t *testing.T, script string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "sh", "-ec", script).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s", script, err, out)
	}
	return string(out)
}

// state is what tar says of a tree: kinds, modes, owners, sizes, times, links.
func state(t *testing.T, dir string) string {
	return shell(t, "tar -C "+dir+" --sort=name --numeric-owner --full-time -c . | tar --full-time --numeric-owner -tv")
}

// TestCopiesOfARunningContainer has all that is tried with one guest, in which the other assertions' files do no harm.
func TestCopiesOfARunningContainer(t *testing.T) {
	h := harness.New(t)
	h.MustRun("run", "-d", "--name", "c", "--tmpfs", "/memory", harness.Image, "sleep", "100000")
	t.Run("everything there and back", func(t *testing.T) { everything(t, h) })
	t.Run("mounts are seen", func(t *testing.T) { mounts(t, h) })
	t.Run("tar streams", func(t *testing.T) { streams(t, h) })
	t.Run("many files", func(t *testing.T) { many(t, h) })
	t.Run("holes", func(t *testing.T) { holes(t, h) })
	t.Run("refusals", func(t *testing.T) { refusals(t, h) })
	t.Run("a full disk", func(t *testing.T) { full(t, h) })
	t.Run("killed clients", func(t *testing.T) { killed(t, h) })
	t.Run("paused and ended", func(t *testing.T) { ended(t, h) })
	h.MustRun("rm", "-f", "c")
}

func everything(t *testing.T, h *harness.Host) {
	dir := t.TempDir()
	shell(t, `cd `+dir+`; mkdir -p src/sub; echo a >src/a; chown 12:34 src/a; chmod 4751 src/a; ln src/a src/sub/hard; ln -s ../a src/sub/link
ln -s nothing src/broken; mkfifo src/fifo; mknod src/null c 1 3; : >"src/$(printf 'x\377y\nz')"; chmod 1777 src/sub; touch -d @12345.678 src/sub src/a`)
	must(t, unix.Setxattr(dir+"/src/a", "user.note", []byte("kept"), 0))
	h.MustRun("cp", "-a", dir+"/src", "c:/root")
	h.MustRun("cp", "-a", "c:root/src/.", dir+"/back")
	if want, got := state(t, dir+"/src"), state(t, dir+"/back"); got != want {
		t.Errorf("it came back as\n%s\nand was\n%s", got, want)
	}
	value := make([]byte, 10)
	if n, err := unix.Getxattr(dir+"/back/a", "user.note", value); string(value[:n]) != "kept" {
		t.Errorf("attribute %q, %v", value[:n], err)
	}
	if got := h.MustRun("exec", "c", "stat", "-c", "%a %u:%g %h %Y", "/root/src/a"); got != "4751 12:34 2 12345\n" {
		t.Errorf("in the container it is %q", got)
	}
	// Without -a it is root's.
	h.MustRun("cp", dir+"/src/a", "c:/root/mine")
	if got := h.MustRun("exec", "c", "stat", "-c", "%u:%g", "/root/mine"); got != "0:0\n" {
		t.Errorf("without -a it is %q", got)
	}
}

func mounts(t *testing.T, h *harness.Host) {
	dir := t.TempDir()
	must(t, os.WriteFile(dir+"/f", []byte("f"), 0o644))
	h.MustRun("cp", dir+"/f", "c:/memory/")
	if got := h.MustRun("exec", "c", "cat", "/memory/f"); got != "f" {
		t.Errorf("in the mount there is %q", got)
	}
	h.MustRun("exec", "c", "sh", "-c", "echo shm >/dev/shm/x; ln -s /memory/f /tmp/link")
	h.MustRun("cp", "c:/dev/shm/x", dir)
	h.MustRun("cp", "-L", "c:/tmp/link", dir)
	for name, want := range map[string]string{"x": "shm\n", "link": "f"} {
		if b, err := os.ReadFile(filepath.Join(dir, name)); string(b) != want {
			t.Errorf("%s: %q, %v", name, b, err)
		}
	}
}

func streams(t *testing.T, h *harness.Host) {
	dir := t.TempDir()
	shell(t, "mkdir -p "+dir+"/in/d; echo text >"+dir+"/in/d/text")
	archive := shell(t, "tar -C "+dir+"/in -cz d")
	if r := h.RunInput(strings.NewReader(archive), "cp", "-", "c:/tmp"); r.Code != 0 || r.Stderr != "" {
		t.Fatalf("%+v", r)
	}
	r := h.Run("cp", "c:/tmp/d", "-")
	out := exec.CommandContext(t.Context(), "tar", "-C", dir, "-xv")
	out.Stdin = strings.NewReader(r.Stdout)
	if names, err := out.CombinedOutput(); string(names) != "d/\nd/text\n" || err != nil {
		t.Errorf("%q, %v, %+v", names, err, r.Stderr)
	}
}

func many(t *testing.T, h *harness.Host) {
	const files = 1000
	dir := t.TempDir()
	must(t, os.Mkdir(dir+"/many", 0o755))
	for i := range files {
		must(t, os.WriteFile(fmt.Sprintf("%s/many/%d", dir, i), fmt.Append(nil, i), 0o644))
	}
	h.MustRun("cp", dir+"/many", "c:/memory")
	h.MustRun("cp", "c:/memory/many", dir+"/back")
	shell(t, "diff -r "+dir+"/many "+dir+"/back")
}

func holes(t *testing.T, h *harness.Host) {
	dir := t.TempDir()
	f, err := os.Create(dir + "/sparse")
	must(t, err)
	_, err = f.WriteAt(bytes.Repeat([]byte("data"), 1000), 1<<30)
	must(t, err)
	must(t, f.Truncate(2<<30))
	must(t, f.Close())
	h.MustRun("cp", dir+"/sparse", "c:/root/sparse")
	h.MustRun("cp", "c:/root/sparse", dir+"/back")
	var st unix.Stat_t
	must(t, unix.Stat(dir+"/back", &st))
	if st.Size != 2<<30 || st.Blocks*512 > 1<<20 {
		t.Errorf("%d bytes in %d blocks", st.Size, st.Blocks)
	}
	b := make([]byte, 4000)
	f, err = os.Open(dir + "/back")
	must(t, err)
	defer f.Close()
	if _, err := f.ReadAt(b, 1<<30); err != nil || sha256.Sum256(b) != sha256.Sum256(bytes.Repeat([]byte("data"), 1000)) {
		t.Errorf("the data is not: %v", err)
	}
}

func refusals(t *testing.T, h *harness.Host) {
	dir := t.TempDir()
	must(t, os.WriteFile(dir+"/f", nil, 0o644))
	for _, c := range []struct{ from, to, err string }{
		{"c:/nothing", dir, "could not find the file /nothing in container c"},
		{dir + "/f", "c:/no/f", "could not find the file /no in container c"},
		{dir + "/nothing", "c:/", "no such file or directory"},
		{dir, "c:/etc/passwd", "cannot copy directory"},
		{dir + "/f", "c:/new/", "no such directory"},
		{dir + "/f", "c:/dev/null", "got a device"},
		{dir + "/f", "c:/proc", "cannot be copied into"},
		{"c:/proc/cpuinfo", dir, "cannot be copied"},
		{"c:/etc", dir + "/f", "cannot copy directory"},
		{"c:/etc", dir + "/no/f", "does not exist"},
		{"c:/a", "c:/b", "copying between containers is not supported"},
		{"a", "b", "must specify at least one container source"},
		{"nobody:/a", "b", "no container"},
		{"", "c:/", "source can not be empty"},
	} {
		if r := h.Run("cp", c.from, c.to); r.Code != 1 || !strings.Contains(r.Stderr, c.err) || r.Stdout != "" {
			t.Errorf("cp %s %s: %+v", c.from, c.to, r)
		}
	}
}

func full(t *testing.T, h *harness.Host) {
	h.MustRun("exec", "c", "sh", "-c", "mkdir -p /dev/shm/full")
	f := filepath.Join(t.TempDir(), "large")
	must(t, os.WriteFile(f, make([]byte, 70<<20), 0o600))
	if r := h.Run("cp", f, "c:/dev/shm/full"); r.Code != 1 || !strings.Contains(r.Stderr, "no space left on device") {
		t.Errorf("%+v", r)
	}
	if got := h.MustRun("exec", "c", "ls", "/dev/shm/full"); got != "" {
		t.Errorf("left: %q", got)
	}
}

// killed has clients that die in the middle; the agent has as many further copies as before.
func killed(t *testing.T, h *harness.Host) {
	const more = 70 // than may be under way at once
	h.MustRun("exec", "c", "sh", "-c", "truncate -s 1G /root/large")
	for i := range more {
		cmd := h.Command("cp", "c:/root/large", "-")
		out, err := cmd.StdoutPipe()
		must(t, err)
		must(t, cmd.Start())
		if _, err := out.Read(make([]byte, 1)); err != nil {
			t.Fatalf("copy %d: %v", i, err)
		}
		must(t, cmd.Process.Signal(syscall.SIGKILL))
		_ = cmd.Wait() // it was killed
	}
	h.MustRun("cp", "c:/etc/passwd", t.TempDir())
}

// ended goes on with the container paused, killed, and started again.
func ended(t *testing.T, h *harness.Host) {
	dir := t.TempDir()
	must(t, os.WriteFile(dir+"/f", []byte("kept"), 0o644))
	h.MustRun("pause", "c")
	h.MustRun("cp", dir+"/f", "c:/root/paused")
	h.MustRun("unpause", "c")
	h.MustRun("kill", "c")
	h.AwaitState("c", "stopped")
	before := h.Record("c")
	h.MustRun("cp", "c:/root/paused", dir+"/back")
	h.MustRun("cp", dir+"/f", "c:/root/ended")
	if after := h.Record("c"); after.State != before.State || after.ExitCode != before.ExitCode || after.Pid != 0 {
		t.Errorf("the copies left %+v, and before it was %+v", after, before)
	}
	if b, err := os.ReadFile(dir + "/back"); string(b) != "kept" {
		t.Errorf("%q, %v", b, err)
	}
	h.MustRun("start", "c")
	if got := h.MustRun("exec", "c", "cat", "/root/ended"); got != "kept" {
		t.Errorf("after the start it is %q", got)
	}
}

func TestACopyIntoAContainerThatHasNotRun(t *testing.T) {
	h := harness.New(t)
	dir := t.TempDir()
	must(t, os.WriteFile(dir+"/f", []byte("copied before\n"), 0o644))
	h.MustRun("create", "--name", "made", harness.Image, "cat", "/root/f")
	h.MustRun("cp", dir+"/f", "made:/root/")
	if r := h.Record("made"); r.State != "created" {
		t.Errorf("the copy left %+v", r)
	}
	if got := h.MustRun("start", "-a", "made"); got != "copied before\n" {
		t.Errorf("it prints %q", got)
	}
	h.MustRun("rm", "made")
}

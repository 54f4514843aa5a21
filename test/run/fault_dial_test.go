//go:build e2e

package run

import (
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/runcvm/runcvm/test/harness"
	"github.com/runcvm/runcvm/test/serve"
)

// TestAProcessThatDialsGetsNothing dials every port of the host, and the agent, from within a container. For a proof that
// it would find something, one of the host's ports is opened from outside, where Firecracker looks for it. The default seccomp profile
// would refuse the socket already.
//
// RUNCVM_TEST_PORTS is how many low ports are dialled, where all of them take too long.
func TestAProcessThatDialsGetsNothing(t *testing.T) {
	const opened = 7777
	ports := os.Getenv("RUNCVM_TEST_PORTS")
	if ports == "" {
		ports = "65536"
	}
	h := harness.New(t)
	root := t.TempDir()
	program, err := os.ReadFile(harness.Program(t, "vsockprobe"))
	if err == nil {
		err = os.WriteFile(filepath.Join(root, "vsockprobe"), program, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	h.MustRun("import", root, "probe")
	t.Cleanup(func() { h.MustRun("rmi", "probe") })

	in, begin := io.Pipe()
	cmd, out := start(t, h, in, "run", "--rm", "-i", "--name", "probe", "--security-opt", "seccomp=unconfined", "probe", "/vsockprobe", ports)
	record := h.AwaitState("probe", "running")
	listenAt(t, filepath.Join(h.RunDir, record.ID), fmt.Sprintf("vsock.sock_%d", opened))
	began := time.Now()
	begin.Close()
	b, err := io.ReadAll(out)
	if werr := cmd.Wait(); err != nil || werr != nil {
		t.Fatalf("%v, %v: %q", err, werr, b)
	}
	t.Logf("it took %s", time.Since(began))
	found := false
	dialled := ""
	for line := range strings.Lines(string(b)) {
		line = strings.TrimSpace(line)
		cid, _, _ := strings.Cut(line, ":")
		switch {
		case line == fmt.Sprintf(`2:%d "opened by the test"`, opened):
			found = true
		case strings.HasPrefix(line, "dialled "):
			dialled = line
		case cid != "2" && strings.HasSuffix(line, " closed"):
			// The guest's kernel may connect its own addresses; the agent closes what is not the host's without a byte.
		default:
			t.Errorf("got %q", line)
		}
	}
	if !found || dialled == "" {
		t.Errorf("found the opened port: %t, end %q", found, dialled)
	}
}

// listenAt answers connections to a socket in a directory whose path may be too long for a socket's address.
func listenAt(t *testing.T, dir, name string) {
	t.Helper()
	d, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	l, err := net.Listen("unix", fmt.Sprintf("/proc/self/fd/%d/%s", d.Fd(), name))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go serve.Connections(l, func(c net.Conn) {
		_, _ = io.WriteString(c, "opened by the test")
		serve.Discard(c)
	})
}

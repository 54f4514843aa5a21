//go:build e2e

package engines

import (
	"strings"
	"testing"

	"github.com/runcvm/runcvm/test/engines/engine"
)

// testRefused asks for what a microVM does not give: the engine tells what it is and what to do instead, and nothing of it is left.
func testRefused(t *testing.T, e *engine.Engine, runtime string) {
	if runtime != engine.RunCVM {
		return // runc has it all
	}
	e.LoadImages(engine.Volume)
	other := "refused-other"
	e.MustRun(e.WithRuntime(engine.Runc, "run", "-d", "--name", other, engine.Busybox, "sleep", "1000")...)
	t.Cleanup(func() { e.Run("rm", "-f", other) })
	const name = "refused"
	for _, c := range []struct {
		args, image string
		text        string
	}{
		{"-v /tmp:/d", engine.Busybox, "make it read-only (:ro)"},
		{"-v named:/d", engine.Busybox, "make it read-only (:ro)"},
		{"", engine.Volume, "give it as tmpfs"},
		{"--device /dev/loop-control", engine.Busybox, "linux.devices"},
		{"--network host", engine.Busybox, "network"},
		{"--network container:" + other, engine.Busybox, "network"},
		{"--pid host", engine.Busybox, "linux.namespaces"},
		{"--ipc host", engine.Busybox, "linux.namespaces"},
		{"--uts host", engine.Busybox, "linux.namespaces"},
	} {
		t.Run(strings.TrimSpace(c.args+" "+c.image), func(t *testing.T) {
			e := e.For(t)
			args := append([]string{"run", "--name", name}, strings.Fields(c.args)...)
			r := e.Run(e.WithRuntime(runtime, append(args, c.image, "true")...)...)
			e.Run("rm", "-f", "-v", name)
			if r.Code < 125 || r.Code > 126 || !strings.Contains(r.Stderr, c.text) || r.Stdout != "" && e.Kind == engine.Podman {
				t.Errorf("exit code %d, stdout %q, stderr %s; want it refused with %q", r.Code, r.Stdout, r.Stderr, c.text)
			}
		})
	}
	e.Run("volume", "rm", "named")
	if got := e.MustRun(e.WithRuntime(runtime, "run", "--rm", "--tmpfs", "/data", engine.Volume, "stat", "-f", "-c", "%T", "/data")...); got != "tmpfs" {
		t.Errorf("with --tmpfs the volume's file system is %q", got)
	}
}

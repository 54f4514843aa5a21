//go:build e2e

package engines

import (
	"strings"
	"testing"

	"github.com/runcvm/runcvm/test/engines/engine"
)

// nested starts a dockerd in a container and a container in that. A cgroup that has processes hands no controllers down, so the
// script's own go to one of their own, as the entry points of such images do it.
const nested = `
mkdir /sys/fs/cgroup/init
for pid in $(cat /sys/fs/cgroup/cgroup.procs); do echo $pid >/sys/fs/cgroup/init/cgroup.procs; done 2>/dev/null
for c in $(cat /sys/fs/cgroup/cgroup.controllers); do echo +$c >/sys/fs/cgroup/cgroup.subtree_control; done
dockerd >/tmp/log 2>&1 &
until docker version >/dev/null 2>&1; do sleep 0.2; kill -0 $! || { cat /tmp/log; exit 1; }; done
tar -C /inner -c . | docker import - inner >/dev/null || { cat /tmp/log; exit 1; }
docker run --rm --memory 64m inner /busybox echo hello from the inner container
docker run --rm inner /busybox wget -q -O - http://198.18.0.1/
docker run --rm inner /busybox sh -c 'exit 9'
echo $?
docker info -f '{{.CgroupVersion}} {{.Driver}}'
`

// testNested runs a dockerd in a privileged container, which has all of its guest and nothing of the host.
func testNested(t *testing.T, e *engine.Engine, runtime string) {
	if runtime != engine.RunCVM || e.Kind != engine.DebianDocker {
		return // the inner one has nothing of the outer one
	}
	e.LoadImages(engine.Docker)
	t.Cleanup(func() { e.Run("rmi", engine.Docker) })
	r := e.Run(e.WithRuntime(runtime, "run", "--rm", "--privileged", "--memory", "1g", engine.Docker, "sh", "-c", nested)...)
	const want = "hello from the inner container\nhello from outside to 198.18.0.2\n9\n"
	if r.Code != 0 || !strings.HasPrefix(r.Stdout, want) {
		t.Errorf("exit code %d, stdout %q, want %q; stderr: %.8000s", r.Code, r.Stdout, want, r.Stderr)
	}
	t.Logf("%s", strings.TrimPrefix(r.Stdout, want))
}

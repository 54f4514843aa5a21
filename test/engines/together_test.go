//go:build e2e

package engines

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/runcvm/runcvm/test/engines/engine"
	"github.com/runcvm/runcvm/test/harness"
)

// testTogether starts many containers at once: each has its own output and exit code.
func testTogether(t *testing.T, e *engine.Engine, runtime string) {
	const containers = 20
	network := func(int) []string { return nil }
	if e.Kind == engine.DebianDocker {
		// Before 20.10.27 Docker locks itself up for ever when containers of one network come and go in the same moment
		// (moby/moby#46661), whatever their runtime: so each has one of its own.
		name := func(i int) string { return fmt.Sprint("together-", i) }
		network = func(i int) []string { return []string{"--network", name(i)} }
		for i := range containers {
			e.MustRun("network", "create", "--subnet", fmt.Sprintf("10.76.%d.0/24", i), name(i))
			t.Cleanup(func() { e.MustRun("network", "rm", name(i)) })
		}
	}
	var all sync.WaitGroup
	for i := range containers {
		all.Go(func() {
			want := fmt.Sprintf("this is %d\n", i)
			args := append([]string{"run", "--rm"}, network(i)...)
			args = append(args, engine.Busybox, "sh", "-c", fmt.Sprintf("echo this is %d; exit %d", i, i))
			r := e.Run(e.WithRuntime(runtime, args...)...)
			if r.Code != i || r.Stdout != want {
				t.Errorf("container %d: exit code %d, stdout %q, stderr %.2000s", i, r.Code, r.Stdout, r.Stderr)
			}
		})
	}
	all.Wait()
}

// testNginx asks a web server behind a published port 1,000 times, with a connection for each.
func testNginx(t *testing.T, e *engine.Engine, runtime string) {
	e.LoadImages(engine.Nginx)
	const name = "nginx"
	t.Cleanup(func() { e.Run("rm", "-f", name) })
	e.MustRun(e.WithRuntime(runtime, "run", "-d", "--name", name, "-p", "18080:80", engine.Nginx)...)
	client := &http.Client{Timeout: harness.Soon, Transport: &http.Transport{DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, address string) (c net.Conn, err error) {
			err = e.InNetwork("outside", func() error {
				var d net.Dialer
				c, err = d.DialContext(ctx, "tcp4", address)
				return err
			})
			return c, err
		}}}
	ask := func() error {
		r, err := client.Get("http://198.18.0.2:18080/")
		if err != nil {
			return err
		}
		defer r.Body.Close()
		page, err := io.ReadAll(r.Body)
		if err == nil && (r.StatusCode != http.StatusOK || string(page) != engine.NginxPage) {
			err = fmt.Errorf("%s, %d bytes", r.Status, len(page))
		}
		return err
	}
	harness.Eventually(t, harness.Patience, ask)
	const requests, clients = 1000, 10
	began := time.Now()
	var all sync.WaitGroup
	for range clients {
		all.Go(func() {
			for i := range requests / clients {
				if err := ask(); err != nil {
					t.Errorf("request %d of a client: %v", i+1, err)
					return // the others would mostly be as long in coming
				}
			}
		})
	}
	all.Wait()
	if t.Failed() {
		t.Logf("the container's network:\n%s", e.NetworkOf(name))
	}
	t.Logf("%d requests in %s", requests, time.Since(began).Round(time.Millisecond))
}

// testNewContent loads another image of the same name with other content at the same path.
func testNewContent(t *testing.T, e *engine.Engine, runtime string) {
	const image = "registry.test/content:1"
	for _, content := range []string{"one", "two"} {
		archive := filepath.Join(t.TempDir(), "image.tar")
		img, err := engine.BusyboxImage(map[string]string{"/content": content})
		if err == nil {
			err = engine.WriteArchive(archive, image, img)
		}
		if err != nil {
			t.Fatal(err)
		}
		e.Load(archive)
		if got := e.MustRun(e.WithRuntime(runtime, "run", "--rm", image, "cat", "/content")...); got != content {
			t.Errorf("the image's file has %q, want %q", got, content)
		}
		e.MustRun("rmi", image)
	}
}

// testLeft removes all containers and expects that the host is as it was before.
func testLeft(t *testing.T, e *engine.Engine, _ string) {
	if ids := strings.Fields(e.Run("ps", "-aq").Stdout); len(ids) > 0 {
		t.Errorf("containers are left: %v", ids)
	}
	e.CheckLeft()
}

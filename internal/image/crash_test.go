package image

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/runcvm/runcvm/internal/image/imagetest"
	"github.com/runcvm/runcvm/test/child"
)

// The tests below need processes to kill: this binary again, with the store and the layouts in its environment.
const storeVariable, layoutsVariable = "RUNCVM_TEST_STORE", "RUNCVM_TEST_LAYOUTS"

func TestMain(m *testing.M) {
	if dir := os.Getenv(storeVariable); dir != "" {
		if err := churn(dir, filepath.SplitList(os.Getenv(layoutsVariable))); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// churn imports the layouts and removes images without end, and tells when it has begun.
func churn(dir string, layouts []string) error {
	ctx := context.Background()
	s, err := Open(dir)
	if err != nil {
		return err
	}
	child.Begun()
	for i := 0; ; i++ {
		name := fmt.Sprint("image-", i%3)
		if _, err := s.Import(ctx, layouts[i%len(layouts)], name); err != nil {
			return err
		}
		if i%4 != 3 {
			continue
		}
		if err := s.Remove(ctx, name); err != nil && !errors.Is(err, errdefs.ErrNotFound) {
			return err
		}
	}
}

// start runs churn in a process of its own, and returns once it works.
func start(t *testing.T, s *Store, layouts []string) *exec.Cmd {
	t.Helper()
	return child.Start(t, storeVariable+"="+s.dir, layoutsVariable+"="+strings.Join(layouts, string(filepath.ListSeparator)))
}

// check reads every image to its end.
func check(t *testing.T, s *Store) {
	t.Helper()
	images, err := s.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, img := range images {
		if f := files(t, s, img); len(f) != 1 {
			t.Errorf("image %s has files %q", img.Name, f)
		}
	}
}

func someLayouts(t *testing.T) []string {
	t.Helper()
	var dirs []string
	for i := range 4 {
		l := imagetest.New(t)
		l.Index(l.Image([][]byte{imagetest.Tar(t, imagetest.File("a", strings.Repeat(fmt.Sprint(i), 200_000)))}, nil))
		dirs = append(dirs, l.Dir)
	}
	return dirs
}

func TestAKilledImportLeavesAWholeStore(t *testing.T) {
	s, layouts := open(t), someLayouts(t)
	for i := range 25 {
		cmd := start(t, s, layouts)
		// The moments of the kills are spread over what one round of the process takes.
		time.Sleep(time.Duration(i) * 1700 * time.Microsecond)
		child.Kill(t, cmd)
		check(t, s)
	}
	if _, err := s.Import(t.Context(), layouts[0], "last"); err != nil {
		t.Fatal(err)
	}
	images, err := s.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	used := map[string]bool{}
	for _, img := range images {
		used["names/"+filepath.Base(s.namePath(img.Name))] = true
		for _, d := range img.Blobs {
			used["blobs/sha256/"+d.Encoded()] = true
		}
	}
	for _, path := range contents(t, s) {
		if !used[path] {
			t.Errorf("%s was left", path)
		}
	}
}

func TestSeveralProcessesShareAStore(t *testing.T) {
	s, layouts := open(t), someLayouts(t)
	var commands []*exec.Cmd
	for range 3 {
		commands = append(commands, start(t, s, layouts))
	}
	var g sync.WaitGroup
	g.Go(func() {
		for range 5 {
			img, err := s.Import(t.Context(), layouts[0], "mine")
			if err != nil {
				t.Error(err)
				return
			}
			if f := files(t, s, img); len(f) != 1 {
				t.Errorf("files %q", f)
			}
		}
	})
	g.Wait()
	for _, cmd := range commands {
		child.Kill(t, cmd)
	}
	check(t, s)
}

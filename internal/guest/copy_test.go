package guest

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/runcvm/runcvm/internal/guestapi"
	"github.com/runcvm/runcvm/internal/guestapi/archive"
)

// copyServer is an agent with a created container, whose root directory is root.
func copyServer(t *testing.T) (s *copyService, root string, dial func() net.Conn) {
	t.Helper()
	a, c := agentWithContainer(t)
	dir := t.TempDir()
	c.dir, c.phase, root = dir, phaseCreated, filepath.Join(dir, "rootfs")
	if err := errors.Join(os.MkdirAll(root+"/etc", 0o755), os.WriteFile(root+"/etc/file", []byte("content"), 0o600),
		os.Symlink("/etc/file", root+"/link"), os.Symlink("../../../../../../etc/passwd", root+"/out"), os.Mkdir(root+"/proc", 0o755)); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = a.serveStreams(l) }()
	t.Cleanup(func() {
		l.Close()
		if err := a.copies.stop(); err != nil {
			t.Error(err)
		}
	})
	return &copyService{a}, root, func() net.Conn {
		conn, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		return conn
	}
}

func (s *copyService) openForTest(t *testing.T, r *guestapi.CopyOpenRequest) {
	t.Helper()
	r.ContainerId = "c"
	if _, err := s.Open(t.Context(), r); err != nil {
		t.Fatal(err)
	}
}

func (s *copyService) resultForTest(t *testing.T, id string) string {
	t.Helper()
	r, err := s.Result(t.Context(), &guestapi.CopyResultRequest{ContainerId: "c", TransferId: id})
	if err != nil {
		t.Fatal(err)
	}
	return r.Error
}

func TestACopyOutOfAContainer(t *testing.T) {
	s, _, dial := copyServer(t)
	s.openForTest(t, &guestapi.CopyOpenRequest{TransferId: "one", Path: []byte("etc")})
	conn := dial()
	var b bytes.Buffer
	if err := errors.Join(guestapi.OpenStream(conn, "c", "one", guestapi.Stdout), guestapi.Receive(conn, &b)); err != nil {
		t.Fatal(err)
	}
	conn.Close()
	if e := s.resultForTest(t, "one"); e != "" {
		t.Error(e)
	}
	r := tar.NewReader(&b)
	for _, want := range []string{"./", "file"} {
		if h, err := r.Next(); err != nil || h.Name != want {
			t.Fatalf("%+v, %v; not %s", h, err, want)
		}
	}
	if content, err := io.ReadAll(r); string(content) != "content" {
		t.Errorf("%q, %v", content, err)
	}
}

func packed(t *testing.T, path string) io.ReadCloser {
	t.Helper()
	f, err := os.OpenFile(path, unix.O_PATH|unix.O_NOFOLLOW, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var b bytes.Buffer
	if _, err := (&archive.Packer{}).Pack(t.Context(), &b, f); err != nil {
		t.Fatal(err)
	}
	return io.NopCloser(&b)
}

func TestACopyIntoAContainer(t *testing.T) {
	s, root, dial := copyServer(t)
	source := filepath.Join(t.TempDir(), "source")
	if err := os.WriteFile(source, []byte(strings.Repeat("x", 300<<10)), 0o640); err != nil {
		t.Fatal(err)
	}
	s.openForTest(t, &guestapi.CopyOpenRequest{TransferId: "one", Path: []byte("/etc"), Write: true, Name: []byte("new")})
	conn := dial()
	if err := errors.Join(guestapi.OpenStream(conn, "c", "one", guestapi.Stdin), guestapi.Send(conn, packed(t, source))); err != nil {
		t.Fatal(err)
	}
	conn.Close()
	if e := s.resultForTest(t, "one"); e != "" {
		t.Error(e)
	}
	if b, err := os.ReadFile(root + "/etc/new"); len(b) != 300<<10 {
		t.Errorf("%d bytes, %v", len(b), err)
	}
	if _, err := s.Result(t.Context(), &guestapi.CopyResultRequest{ContainerId: "c", TransferId: "two"}); status.Code(err) != codes.NotFound {
		t.Error(err)
	}
}

func TestARefusedCopyTellsTheHostWhileItSends(t *testing.T) {
	s, root, dial := copyServer(t)
	s.openForTest(t, &guestapi.CopyOpenRequest{TransferId: "one", Path: []byte("/"), Write: true, Name: []byte("etc")})
	conn := dial()
	if err := guestapi.OpenStream(conn, "c", "one", guestapi.Stdin); err != nil {
		t.Fatal(err)
	}
	// A file in a directory's place, and then megabytes more.
	source := filepath.Join(t.TempDir(), "source")
	if err := os.WriteFile(source, make([]byte, 8<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := guestapi.Send(conn, packed(t, source)); !errors.Is(err, guestapi.ErrReaderGone) {
		t.Errorf("sending ends with %v", err)
	}
	conn.Close()
	if e := s.resultForTest(t, "one"); !strings.Contains(e, `cannot overwrite directory "etc"`) {
		t.Error(e)
	}
	if b, err := os.ReadFile(root + "/etc/file"); string(b) != "content" {
		t.Errorf("%q, %v", b, err)
	}
}

func TestStatSeesOnlyTheContainer(t *testing.T) {
	s, _, _ := copyServer(t)
	for path, want := range map[string]string{
		"link": "/etc/file", "/out": "/etc/passwd", "/etc/../link": "/etc/file", "/etc/file": "", "etc": "", "": "",
	} {
		st, err := s.Stat(t.Context(), &guestapi.CopyStatRequest{ContainerId: "c", Path: []byte(path)})
		if err != nil || string(st.LinkTarget) != want {
			t.Errorf("%s: %v, %v", path, st, err)
		}
	}
	for path, code := range map[string]codes.Code{
		"/nothing": codes.NotFound, "/etc/file/": codes.InvalidArgument, "/etc/file/x": codes.InvalidArgument, "/out/": codes.NotFound,
		"nul\x00": codes.InvalidArgument, strings.Repeat("x/", 5000): codes.InvalidArgument, "\xff\xfe": codes.NotFound,
	} {
		_, err := s.Stat(t.Context(), &guestapi.CopyStatRequest{ContainerId: "c", Path: []byte(path)})
		if status.Code(err) != code {
			t.Errorf("%.20q: %v", path, err)
		}
	}
}

func TestWhatCannotBeCopiedIsRefusedAtOnce(t *testing.T) {
	s, root, _ := copyServer(t)
	if err := unix.Mount("proc", root+"/proc", "proc", 0, ""); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(root+"/proc", unix.MNT_DETACH)
	ro := root + "/ro"
	if err := errors.Join(os.Mkdir(ro, 0o755), unix.Mount("tmpfs", ro, "tmpfs", unix.MS_RDONLY, "")); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(ro, unix.MNT_DETACH)
	for want, r := range map[string]*guestapi.CopyOpenRequest{
		"no such file":               {TransferId: "x", Path: []byte("/nothing")},
		"is no name of a file":       {TransferId: "x", Path: []byte("/"), Write: true, Name: []byte("../x")},
		"is no id":                   {TransferId: "a/b", Path: []byte("/")},
		"not a directory":            {TransferId: "x", Path: []byte("/link"), Write: true},
		"proc cannot be copied into": {TransferId: "x", Path: []byte("/proc"), Write: true},
		"marked read-only":           {TransferId: "x", Path: []byte("/ro"), Write: true},
	} {
		r.ContainerId = "c"
		if _, err := s.Open(t.Context(), r); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is %v", want, err)
		}
	}
	if s.a.copies.running != 0 {
		t.Errorf("%d copies run", s.a.copies.running)
	}
}

func TestCopiesAreBoundedAndEndWithTheHost(t *testing.T) {
	s, root, dial := copyServer(t)
	if err := os.WriteFile(root+"/large", make([]byte, 8<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	conns := make([]net.Conn, maxTransfers)
	for i := range conns {
		id := fmt.Sprint("t", i)
		s.openForTest(t, &guestapi.CopyOpenRequest{TransferId: id, Path: []byte("/")})
		conns[i] = dial()
		if err := guestapi.OpenStream(conns[i], "c", id, guestapi.Stdout); err != nil {
			t.Fatal(err)
		}
	}
	_, err := s.Open(t.Context(), &guestapi.CopyOpenRequest{ContainerId: "c", TransferId: "more", Path: []byte("/")})
	if status.Code(err) != codes.ResourceExhausted {
		t.Error(err)
	}
	for i, conn := range conns {
		conn.Close()
		if e := s.resultForTest(t, fmt.Sprint("t", i)); e == "" {
			t.Error("a copy whose host is gone has succeeded")
		}
	}
	s.openForTest(t, &guestapi.CopyOpenRequest{TransferId: "again", Path: []byte("/")})
}

func TestCopiesEndWithTheContainer(t *testing.T) {
	s, root, dial := copyServer(t)
	if err := os.WriteFile(root+"/large", make([]byte, 8<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	for i, r := range []*guestapi.CopyOpenRequest{
		{Path: []byte("/")}, {Path: []byte("/"), Write: true}, {Path: []byte("/")}, // the last is never opened
	} {
		r.TransferId = fmt.Sprint("t", i)
		s.openForTest(t, r)
		if kind := []guestapi.Stream{guestapi.Stdout, guestapi.Stdin}; i < len(kind) {
			if err := guestapi.OpenStream(dial(), "c", r.TransferId, kind[i]); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := s.a.copies.stop(); err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		if e := s.resultForTest(t, fmt.Sprint("t", i)); e == "" {
			t.Errorf("copy %d has succeeded", i)
		}
	}
	if _, err := s.Open(t.Context(), &guestapi.CopyOpenRequest{ContainerId: "c", TransferId: "late", Path: []byte("/")}); err == nil {
		t.Error("a copy begins after the end")
	}
}

func TestTheMainThreadStaysWhatItIs(t *testing.T) {
	// As many at once as it takes to need every thread that there is.
	var group sync.WaitGroup
	var ran atomic.Int32
	const most = 64
	for range most {
		group.Go(func() {
			onThreadOfItsOwn(func() {
				if ran.Add(1); unix.Gettid() == unix.Getpid() {
					t.Error("it ran on the main thread")
				}
				for ran.Load() < most {
					time.Sleep(time.Millisecond)
				}
			})
		})
	}
	group.Wait()
}

func TestTheRootOfAProcessIsItsNamespaces(t *testing.T) {
	dir := t.TempDir()
	// The process has a mount that nobody else sees, and hides in a chroot.
	elsewhere := t.TempDir()
	script := fmt.Sprintf("mount --make-rprivate / && mount --bind / %[2]s && mount -t tmpfs x %[1]s && mkdir %[1]s/seen && touch %[1]s/ready && "+
		"exec chroot %[2]s /bin/sh -c 'read x'", dir, elsewhere)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	pid, err := syscall.ForkExec("/bin/sh", []string{"sh", "-c", script}, &syscall.ProcAttr{
		Files: []uintptr{r.Fd(), 1, 2}, Env: os.Environ(), Sys: &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS}})
	r.Close()
	if err != nil {
		t.Fatal(err)
	}
	// Not the reaper of startReaper, of which a process can have one: another test's may reap this process as well.
	a := &agent{reaper: &reaper{waiting: map[int]chan exit{pid: nil}}}
	deadline := time.Now().Add(20 * time.Second)
	for {
		root, err := a.namespaceRoot(pid)
		if err != nil {
			t.Fatal(err)
		}
		tree := archive.Tree{Root: root, FollowLinks: true}
		_, err = tree.Stat(dir + "/ready")
		root.Close()
		if err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Millisecond)
	}
	if _, err := os.Stat(dir + "/seen"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the test's own namespace sees it too: %v", err)
	}
	w.Close()
	delete(a.reaper.waiting, pid) // as reaping does
	if _, err := a.namespaceRoot(pid); !errors.Is(err, unix.ESRCH) {
		t.Errorf("the root of a process that has ended: %v", err)
	}
}

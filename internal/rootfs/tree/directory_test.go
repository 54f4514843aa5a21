package tree

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/runcvm/runcvm/internal/rootfs/erofs"
	"github.com/runcvm/runcvm/internal/rootfs/erofs/erofstest"
)

// readDirectory reads a directory and returns the tree and the path of the disk.
func readDirectory(t *testing.T, dir string) (*erofs.Inode, string) {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "disk"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := erofs.New(f)
	root, err := ReadDirectory(t.Context(), dir, b)
	if err == nil {
		_, err = b.Finish(root, [16]byte{})
	}
	if err != nil {
		t.Fatal(err)
	}
	return root, f.Name()
}

func TestADirectoryIsRead(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	err := errors.Join(os.MkdirAll(at("d/e"), 0o755), os.WriteFile(at("d/a"), []byte("content"), 0o640), os.Link(at("d/a"), at("d/e/b")),
		os.Symlink("../x\xff", at("d/link")), unix.Mkfifo(at("fifo"), 0o600), os.WriteFile(at("empty"), nil, 0o644),
		os.WriteFile(at(strings.Repeat("\xfe", 255)), []byte("x"), 0o644))
	if err != nil {
		t.Fatal(err)
	}
	root, _ := readDirectory(t, dir)
	want := []string{"d/", "d/a", "d/e/", "d/e/b = d/a", "d/link -> ../x\xff", "empty", "fifo", strings.Repeat("\xfe", 255)}
	if got := list(root); !slices.Equal(got, want) {
		t.Errorf("tree is %q, want %q", got, want)
	}
}

// TestLinksAreFoundByManyWorkers has the same files named from directories that are read at the same time.
func TestLinksAreFoundByManyWorkers(t *testing.T) {
	dir := t.TempDir()
	for d := range 40 {
		sub := filepath.Join(dir, fmt.Sprint(d))
		if err := os.Mkdir(sub, 0o755); err != nil {
			t.Fatal(err)
		}
		for i := range 20 {
			path := filepath.Join(sub, fmt.Sprint(i))
			var err error
			switch {
			case d > 0:
				err = os.Link(filepath.Join(dir, "0", fmt.Sprint(i)), path)
			case i%2 == 0:
				err = os.WriteFile(path, []byte(strings.Repeat(fmt.Sprint(i), 5000)), 0o644)
			default:
				err = os.Symlink(fmt.Sprint("target-", i), path)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	root, _ := readDirectory(t, dir)
	first := root.Children["0"].Children
	for _, d := range root.Children {
		for name, n := range d.Children {
			if n != first[name] {
				t.Fatalf("%s is no hard link", name)
			}
		}
	}
}

func TestHolesOfADirectorysFilesStayHoles(t *testing.T) {
	dir := t.TempDir()
	contents := map[string]map[int64]string{
		"start": {0: "a"}, "middle": {10<<20 + 1000: "b"}, "end": {20<<20 - 1: "c"}, "all": {},
		"odd": {5000: "d", 300_001: "e", 17 << 20: strings.Repeat("f", 100_000)},
	}
	for name, data := range contents {
		f, err := os.Create(filepath.Join(dir, name))
		if err == nil {
			err = f.Truncate(20 << 20)
		}
		for at, text := range data {
			_, werr := f.WriteAt([]byte(text), at)
			err = errors.Join(err, werr)
		}
		if err = errors.Join(err, f.Close()); err != nil {
			t.Fatal(err)
		}
	}
	_, disk := readDirectory(t, dir)
	var st unix.Stat_t
	if err := unix.Stat(disk, &st); err != nil || st.Blocks*512 > 2<<20 {
		t.Errorf("the disk takes %d bytes: %v", st.Blocks*512, err)
	}
	fsys := erofstest.Open(t, disk)
	for name, data := range contents {
		g, err := fsys.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(g)
		if err != nil || len(b) != 20<<20 {
			t.Errorf("%s: %d bytes: %v", name, len(b), err)
			continue
		}
		for at, text := range data {
			if string(b[at:at+int64(len(text))]) != text {
				t.Errorf("%s differs at %d", name, at)
			}
			clear(b[at : at+int64(len(text))])
		}
		if i := slices.IndexFunc(b, func(c byte) bool { return c != 0 }); i >= 0 {
			t.Errorf("%s has data at %d", name, i)
		}
	}
}

func TestADirectoryThatCantBeReadIsAnError(t *testing.T) {
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "a"), []byte("a"), 0o644); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(filepath.Join(t.TempDir(), "disk"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := WriteDirectory(canceled, dir, f); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
	if err := WriteDirectory(t.Context(), filepath.Join(dir, "a"), f); !errors.Is(err, unix.ENOTDIR) {
		t.Errorf("a file: %v", err)
	}
}

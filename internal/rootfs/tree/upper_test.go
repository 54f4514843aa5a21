package tree

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/runcvm/runcvm/internal/rootfs/erofs"
)

// layerOf makes a layer of names: "d/" is a directory, "d!/" one that is opaque, "-f" a whiteout of f.
func layerOf(names ...string) *erofs.Inode {
	root := New().Root()
	for _, name := range names {
		at := root
		parts := strings.Split(strings.TrimSuffix(name, "/"), "/")
		for i, part := range parts {
			dir := i < len(parts)-1 || strings.HasSuffix(name, "/")
			key := strings.TrimPrefix(strings.TrimSuffix(part, "!"), "-")
			n := at.Children[key]
			switch {
			case n != nil:
			case dir:
				n = &erofs.Inode{Mode: erofs.ModeDir | 0o755, Children: map[string]*erofs.Inode{}}
			case strings.HasPrefix(part, "-"):
				n = &erofs.Inode{Mode: unix.S_IFCHR}
			default:
				n = &erofs.Inode{Mode: erofs.ModeReg | 0o644}
			}
			if strings.HasSuffix(part, "!") {
				setOpaque(n)
			}
			at.Children[key] = n
			at = n
		}
	}
	return root
}

// namesOf is the other way round; every directory is listed.
func namesOf(n *erofs.Inode) []string {
	var names []string
	for name, c := range n.Children {
		switch {
		case isWhiteout(c):
			names = append(names, "-"+name)
		case c.IsDir():
			if isOpaque(c) {
				name += "!"
			}
			names = append(names, name+"/")
			for _, sub := range namesOf(c) {
				names = append(names, name+"/"+sub)
			}
		default:
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

func TestLayersAreStacked(t *testing.T) {
	for name, tt := range map[string]struct{ lower, upper, want []string }{
		"side by side":                        {[]string{"a"}, []string{"b"}, []string{"a", "b"}},
		"directories":                         {[]string{"d/a"}, []string{"d/b"}, []string{"d/", "d/a", "d/b"}},
		"a whiteout stays":                    {[]string{"d/a"}, []string{"d/-a"}, []string{"d/", "d/-a"}},
		"a whiteout below stays":              {[]string{"-a"}, []string{"b"}, []string{"-a", "b"}},
		"opaque hides":                        {[]string{"d/a"}, []string{"d!/b"}, []string{"d!/", "d!/b"}},
		"opaque below stays":                  {[]string{"d!/a"}, []string{"d/b"}, []string{"d!/", "d!/a", "d!/b"}},
		"a directory over a whiteout":         {[]string{"-d"}, []string{"d/b"}, []string{"d!/", "d!/b"}},
		"a directory over a file":             {[]string{"d"}, []string{"d/b"}, []string{"d!/", "d!/b"}},
		"a file over a directory":             {[]string{"d/a"}, []string{"d"}, []string{"d"}},
		"a whiteout of a directory":           {[]string{"d/a"}, []string{"-d"}, []string{"-d"}},
		"a file over a whiteout":              {[]string{"-a"}, []string{"a"}, []string{"a"}},
		"deep directories, one of them there": {[]string{"d/e/a"}, []string{"d/e/f/"}, []string{"d/", "d/e/", "d/e/a", "d/e/f/"}},
	} {
		if got := namesOf(Stack(layerOf(tt.lower...), layerOf(tt.upper...))); !slices.Equal(got, tt.want) {
			t.Errorf("%s: %q, want %q", name, got, tt.want)
		}
	}
}

func TestWhiteoutsOfNothingAreDropped(t *testing.T) {
	root := layerOf("-a", "-b", "d/-c", "d/-e", "f")
	err := DropWhiteouts(root, func(path string) (bool, error) { return path == "a" || path == "d/e", nil })
	if got := namesOf(root); err != nil || !slices.Equal(got, []string{"-a", "d/", "d/-e", "f"}) {
		t.Errorf("%q, %v", got, err)
	}
	failure := errors.New("not readable")
	if err := DropWhiteouts(layerOf("d/-c"), func(string) (bool, error) { return false, failure }); !errors.Is(err, failure) {
		t.Errorf("error %v", err)
	}
}

// TestNothingOutsideIsRead has directories become links to the outside, and back, while they are read.
func TestNothingOutsideIsRead(t *testing.T) {
	outside, dir := t.TempDir(), t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	err := errors.Join(os.WriteFile(filepath.Join(outside, "secret"), []byte("secret"), 0o600), os.MkdirAll(at("a/b"), 0o755),
		os.WriteFile(at("a/b/inside"), []byte("inside"), 0o644), os.Symlink(outside, at("link")), os.Symlink(outside, at("a/link")))
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	swapped := make(chan struct{})
	go func() {
		defer close(swapped)
		for {
			select {
			case <-done:
				return
			default:
			}
			// An exchange: there is always one of the two.
			_ = unix.Renameat2(unix.AT_FDCWD, at("a/b"), unix.AT_FDCWD, at("a/link"), unix.RENAME_EXCHANGE)
			_ = unix.Renameat2(unix.AT_FDCWD, at("a"), unix.AT_FDCWD, at("link"), unix.RENAME_EXCHANGE)
		}
	}()
	for range 200 {
		f, err := os.Create(filepath.Join(t.TempDir(), "disk"))
		if err != nil {
			t.Fatal(err)
		}
		root, err := ReadDirectory(t.Context(), dir, erofs.New(f))
		f.Close()
		if err == nil && slices.ContainsFunc(namesOf(root), func(name string) bool { return filepath.Base(name) == "secret" }) {
			t.Fatalf("read from outside: %q", namesOf(root))
		}
	}
	close(done)
	<-swapped
}

func TestADirectoryBeyondItsRoomIsRefused(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"a", "b"} {
		if err := os.WriteFile(filepath.Join(dir, name), make([]byte, 1000), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for name, tt := range map[string]struct {
		room *Room
		want string
	}{
		"fits":          {NewRoom(2000, 2), ""},
		"too many":      {NewRoom(2000, 1), "more than 1 files"},
		"too large":     {NewRoom(1999, 2), "more than 1.952KiB in files"},
		"one too large": {NewRoom(999, 2), "more than 999B in files"},
	} {
		f, err := os.Create(filepath.Join(t.TempDir(), "disk"))
		if err != nil {
			t.Fatal(err)
		}
		d, err := os.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		_, err = Read(t.Context(), d, erofs.New(f), Options{Room: tt.room})
		if tt.want == "" && err != nil || tt.want != "" && (!errors.Is(err, ErrRoom) || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s: error %v, want %q", name, err, tt.want)
		}
		d.Close()
		f.Close()
	}
}

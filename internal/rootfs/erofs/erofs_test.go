package erofs

import (
	"bytes"
	"fmt"
	"io/fs"
	"math/rand"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/runcvm/runcvm/internal/rootfs/erofs/erofstest"
)

// build makes a disk of the tree that fill returns and checks it with fsck.erofs.
func build(t *testing.T, fill func(w *DataWriter) *Inode) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk.erofs")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := New(f)
	w := b.DataWriter()
	root := fill(w)
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	size, err := b.Finish(root, [16]byte{1, 2, 3})
	if err != nil {
		t.Fatal(err)
	}
	if st, err := f.Stat(); err != nil || st.Size() != size {
		t.Fatalf("size %d: %v, %v", size, st, err)
	}
	if out, err := exec.Command("fsck.erofs", path).CombinedOutput(); err != nil {
		t.Fatalf("fsck.erofs: %v\n%s", err, out)
	}
	return path
}

func dir(children map[string]*Inode) *Inode {
	return &Inode{Mode: ModeDir | 0o755, Children: children}
}

func TestFsckAcceptsEveryKindOfFile(t *testing.T) {
	rnd := make([]byte, 300<<10)
	rand.New(rand.NewSource(1)).Read(rnd)
	contents := map[string][]byte{
		"empty": nil, "one": []byte("x"), "block": rnd[:BlockSize], "block+1": rnd[:BlockSize+1], "big": rnd,
		"sparse-start": append(make([]byte, 64<<10), rnd[:5000]...), "sparse-end": append(bytes.Clone(rnd[:5000]), make([]byte, 64<<10)...),
		"zeros":         make([]byte, 10000),
		"sparse-middle": append(append(bytes.Clone(rnd[:9000]), make([]byte, 64<<10)...), rnd[:9000]...),
	}
	path := build(t, func(w *DataWriter) *Inode {
		files := map[string]*Inode{}
		for name, content := range contents {
			d, err := w.Write(bytes.NewReader(content), int64(len(content)))
			if err != nil {
				t.Fatal(err)
			}
			files[name] = &Inode{Mode: ModeReg | 0o4755, Data: d, Mtime: 1, MtimeNsec: 2, UID: 1 << 31, GID: 70000}
		}
		files["hardlink"] = files["big"]
		files["link"] = &Inode{Mode: ModeLink | 0o777, Target: "somewhere"}
		files["longlink"] = &Inode{Mode: ModeLink | 0o777, Target: strings.Repeat("x/", 2047)}
		files["xlink"] = &Inode{Mode: ModeLink | 0o777, Target: strings.Repeat("x", 4000), Xattrs: []Xattr{{"trusted.x", strings.Repeat("v", 50)}}}
		files["null"] = &Inode{Mode: ModeChar | 0o666, Major: 1, Minor: 3}
		files["blk"] = &Inode{Mode: ModeBlock | 0o666, Major: 300, Minor: 70000}
		files["fifo"] = &Inode{Mode: ModeFifo | 0o666}
		files["sock"] = &Inode{Mode: ModeSocket | 0o666}
		files["x"] = &Inode{Mode: ModeReg, Xattrs: []Xattr{{"user.a", "b"}, {"security.capability", "\x00\x01"}, {"user.big", strings.Repeat("v", 5000)}}}
		many := map[string]*Inode{}
		for i := range 10000 {
			many[fmt.Sprintf("%s%d", strings.Repeat("n", i%240), i)] = &Inode{Mode: ModeReg | 0o644}
		}
		files["many"] = dir(many)
		files["sub"] = dir(map[string]*Inode{"!": {Mode: ModeReg}, strings.Repeat("\xff", 255): {Mode: ModeReg}})
		return dir(files)
	})
	for name, want := range contents {
		got, err := fs.ReadFile(erofstest.Open(t, path), name)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes, want %d: %v", name, len(got), len(want), err)
		}
	}
}

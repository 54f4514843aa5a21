package tree

import (
	"archive/tar"
	"bytes"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/runcvm/runcvm/internal/rootfs/erofs"
)

// sealed returns a tar with the checksums of its headers made right, so that a changed header is read at all (POSIX ustar: the
// sum of the header's bytes, with blanks for the sum).
func sealed(layer []byte) []byte {
	b := bytes.Clone(layer)
	for at := 0; at+512 <= len(b); {
		h := b[at : at+512]
		at += 512
		if allZero := bytes.Equal(h, make([]byte, 512)); allZero {
			continue
		}
		copy(h[148:156], "        ")
		sum := 0
		for _, c := range h {
			sum += int(c)
		}
		copy(h[148:156], fmt.Sprintf("%06o\x00 ", sum))
		size, err := strconv.ParseUint(strings.Trim(string(h[124:136]), " \x00"), 8, 32)
		if err == nil && h[156] != tar.TypeDir && h[156] != tar.TypeSymlink && h[156] != tar.TypeLink {
			at += (int(size) + 511) / 512 * 512
		}
	}
	return b
}

// FuzzLayer reads bytes as two layers, and checks that a tree which comes of them can be written as a disk that names every
// file once.
func FuzzLayer(f *testing.F) {
	f.Add(pack(f, "a", "d/", "d/b", "l -> d", "l/c", "h => d/b"), pack(f, ".wh.a", "d/.wh..wh..opq", "l/.wh.c", "d"))
	f.Add(pack(f, "l -> ../..", "l/a"), pack(f, "a => ../b"))
	disk, err := os.Create(filepath.Join(f.TempDir(), "disk"))
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, lower, upper []byte) {
		limits := Limits{Bytes: 1 << 20, Size: 1 << 20, Entries: 1000, PathLength: 300}
		if err := disk.Truncate(0); err != nil {
			t.Fatal(err)
		}
		tree, err := loadInto(t, disk, limits, sealed(lower), sealed(upper))
		if err != nil {
			return
		}
		depth := 0
		var walk func(n *erofs.Inode, level int)
		walk = func(n *erofs.Inode, level int) {
			depth = max(depth, level)
			for name, c := range n.Children {
				if name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00") || strings.HasPrefix(name, whiteoutPrefix) {
					t.Errorf("the tree has a file %q", name)
				}
				if err := c.Check(name); err != nil {
					t.Errorf("the tree has a file that can't be stored: %v", err)
				}
				if !c.IsDir() && c.Children != nil {
					t.Errorf("%q is no directory and has entries", name)
				}
				walk(c, level+1)
			}
		}
		walk(tree.Root(), 0)
		if depth > maxDepth {
			t.Errorf("the tree is %d deep", depth)
		}
		for _, n := range tree.Unused() {
			if n.Data.Size() == 0 {
				t.Error("an empty file counts as content")
			}
		}
	})
}

// model is what the image specification says about layers, in the plainest form: paths, and which file each is.
type model map[string]string

func (m model) remove(path string) {
	maps.DeleteFunc(m, func(p, _ string) bool { return p == path || strings.HasPrefix(p, path+"/") })
}

// add puts an entry of a layer in; it returns false where an image is to be refused.
func (m model) add(path, id, link string) bool {
	for i := range path {
		if path[i] != '/' {
			continue
		}
		if old, ok := m[path[:i]]; ok && old != "dir" {
			return false // below a file
		}
		m[path[:i]] = "dir"
	}
	if link != "" {
		id = m[link]
		if id == "" || id == "dir" {
			return false
		}
	}
	if m[path] != "dir" || id != "dir" {
		m.remove(path)
	}
	m[path] = id
	return true
}

// FuzzLayersAgainstModel makes layers of a few names out of bytes, and compares the tree with the model's.
func FuzzLayersAgainstModel(f *testing.F) {
	f.Add([]byte("0a1bc2abd3aaz4abq5a"))
	f.Add([]byte("\x00\x05\x09\x01\x15\x22\x06\x00\x00\x04\x05\x00\x03\x11\x05"))
	f.Fuzz(func(t *testing.T, script []byte) {
		path := func(b byte) string {
			parts := []string{"a", "b", "c"}
			text := parts[b%3]
			for b /= 3; b%4 != 0 && len(text) < 5; b /= 4 {
				text += "/" + parts[b%4-1]
			}
			return text
		}
		want, ok := model{}, true
		var layers [][]byte
		var texts []string
		var upper []func() // what the layer puts in, after its whiteouts
		flush := func() {
			for _, add := range upper {
				add()
			}
			layers, texts, upper = append(layers, pack(t, texts...)), nil, nil
		}
		for i := 0; i+2 < len(script) && i < 300; i += 3 {
			p, q, id := path(script[i+1]), path(script[i+2]), fmt.Sprint("f", i)
			add := func(id, link string) {
				upper = append(upper, func() { ok = ok && want.add(p, id, link) })
			}
			switch script[i] % 7 {
			case 0, 1:
				texts = append(texts, p)
				add(id, "")
			case 2:
				texts = append(texts, p+"/")
				add("dir", "")
			case 3:
				texts = append(texts, p+" => "+q)
				add("", q)
			case 4:
				dir, name := filepath.Split(p)
				texts = append(texts, dir+whiteoutPrefix+name)
				want.remove(p)
			case 5:
				texts = append(texts, p+"/"+opaqueName)
				maps.DeleteFunc(want, func(path, _ string) bool { return strings.HasPrefix(path, p+"/") })
			case 6:
				flush()
			}
		}
		flush()
		tree, err := load(t, Limits{}, layers...)
		if (err == nil) != ok {
			t.Fatalf("%q: error %v, but the model says %v", texts, err, ok)
		}
		if err != nil {
			return
		}
		// Two names have one file in the tree when they have in the model.
		first := map[string]*erofs.Inode{}
		var walk func(n *erofs.Inode, prefix string)
		walk = func(n *erofs.Inode, prefix string) {
			for name, c := range n.Children {
				id, ok := want[prefix+name]
				if delete(want, prefix+name); !ok || (id == "dir") != c.IsDir() || first[id] != nil && first[id] != c {
					t.Errorf("%q is %o, the model has %q", prefix+name, c.Mode, id)
				}
				if !c.IsDir() {
					first[id] = c
				}
				walk(c, prefix+name+"/")
			}
		}
		walk(tree.Root(), "")
		if len(want) > 0 {
			t.Errorf("the model also has %v", want)
		}
		for _, n := range tree.Unused() {
			for _, used := range first {
				if n == used {
					t.Error("content in use counts as hidden")
				}
			}
		}
	})
}

package tree

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/runcvm/runcvm/internal/rootfs/erofs"
)

// entries of a layer, in short: "name" is a file with its name as content, "name/" a directory, "a -> b" a symbolic link,
// "a => b" a hard link.
func header(text string) (tar.Header, string) {
	if name, target, ok := strings.Cut(text, " -> "); ok {
		return tar.Header{Name: name, Linkname: target, Typeflag: tar.TypeSymlink, Mode: 0o777}, ""
	}
	if name, target, ok := strings.Cut(text, " => "); ok {
		return tar.Header{Name: name, Linkname: target, Typeflag: tar.TypeLink}, ""
	}
	if strings.HasSuffix(text, "/") {
		return tar.Header{Name: text, Typeflag: tar.TypeDir, Mode: 0o755}, ""
	}
	return tar.Header{Name: text, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(text))}, text
}

func pack(t testing.TB, texts ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, text := range texts {
		h, content := header(text)
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// load puts layers on top of each other.
func load(t testing.TB, limits Limits, layers ...[]byte) (*Tree, error) {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "disk"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	return loadInto(t, f, limits, layers...)
}

func loadInto(t testing.TB, f *os.File, limits Limits, layers ...[]byte) (*Tree, error) {
	t.Helper()
	b, budget, tree := erofs.New(f), NewBudget(limits), New()
	for _, layer := range layers {
		l, err := ReadLayer(t.Context(), bytes.NewReader(layer), b.DataWriter(), budget)
		if err != nil {
			return nil, err
		}
		if err := tree.Apply(t.Context(), l); err != nil {
			return nil, err
		}
	}
	_, err := b.Finish(tree.Root(), [16]byte{})
	return tree, err
}

// list returns a tree in the short form, with hard links as "a = b", where b is the first name.
func list(root *erofs.Inode) []string {
	var lines []string
	seen := map[*erofs.Inode]string{}
	var walk func(dir *erofs.Inode, path string)
	walk = func(dir *erofs.Inode, path string) {
		for _, name := range slices.Sorted(maps.Keys(dir.Children)) {
			n := dir.Children[name]
			full := path + name
			first, known := seen[n]
			seen[n] = full
			switch {
			case known:
				lines = append(lines, full+" = "+first)
			case n.IsDir():
				lines = append(lines, full+"/")
				walk(n, full+"/")
			case n.IsSymlink():
				lines = append(lines, full+" -> "+n.Target)
			default:
				lines = append(lines, full)
			}
		}
	}
	walk(root, "")
	return lines
}

func TestLayersStackAsTheImageSpecificationSays(t *testing.T) {
	tests := []struct {
		name   string
		layers [][]string
		want   []string
	}{
		{"one layer", [][]string{{"a", "d/", "d/b", "l -> d/b"}}, []string{"a", "d/", "d/b", "l -> d/b"}},
		{"missing parents are made", [][]string{{"a/b/c"}}, []string{"a/", "a/b/", "a/b/c"}},
		{"leading dot and slash", [][]string{{"./a", "/b", "./d//c"}}, []string{"a", "b", "d/", "d/c"}},
		{"whiteout of a file", [][]string{{"a", "b"}, {".wh.a"}}, []string{"b"}},
		{"whiteout of a directory", [][]string{{"d/a", "b"}, {".wh.d"}}, []string{"b"}},
		{"whiteout of nothing", [][]string{{"a"}, {".wh.b", "no/such/.wh.c"}}, []string{"a"}},
		{"whiteout and the same name again", [][]string{{"d/a"}, {"d/b", ".wh.d"}}, []string{"d/", "d/b"}},
		{"whiteout does not hide its own layer", [][]string{{"x"}, {"a", ".wh.a"}}, []string{"a", "x"}},
		{"opaque directory", [][]string{{"d/a", "d/e/f"}, {"d/", "d/b", "d/.wh..wh..opq"}}, []string{"d/", "d/b"}},
		{"opaque root", [][]string{{"a", "d/b"}, {".wh..wh..opq", "c"}}, []string{"c"}},
		{"opaque through three layers", [][]string{{"d/a"}, {"d/b"}, {"d/.wh..wh..opq"}}, []string{"d/"}},
		{"a file takes a directory's place", [][]string{{"d/a"}, {"d"}}, []string{"d"}},
		{"a directory takes a file's place", [][]string{{"d"}, {"d/", "d/a"}}, []string{"d/", "d/a"}},
		{"a directory stays as it is", [][]string{{"d/a"}, {"d/", "d/b"}}, []string{"d/", "d/a", "d/b"}},
		{"a directory after its content", [][]string{{"d/a", "d/"}}, []string{"d/", "d/a"}},
		{"a symbolic link takes a directory's place", [][]string{{"d/a", "e/b"}, {"d -> e"}}, []string{"d -> e", "e/", "e/b"}},
		{"the last of two entries counts", [][]string{{"a", "a -> x", "b -> y", "b"}}, []string{"a -> x", "b"}},
		{"hard link", [][]string{{"a", "d/", "d/b => a"}}, []string{"a", "d/b = a", "d/"}},
		{"hard link to a lower layer", [][]string{{"d/a"}, {"b => d/a"}}, []string{"b", "d/", "d/a = b"}},
		{"hard link to a symbolic link", [][]string{{"a -> x", "b => a"}}, []string{"a -> x", "b = a"}},
		{"hard link outlives its first name", [][]string{{"a", "b => a"}, {".wh.a"}}, []string{"b"}},
		{"hard link by an absolute path", [][]string{{"a", "b => /a"}}, []string{"a", "b = a"}},
		{"hard link to itself", [][]string{{"a", "a => a"}}, []string{"a"}},
		{"new content of a hard link leaves the other", [][]string{{"a", "b => a"}, {"a"}}, []string{"a", "b"}},
		{"through a symbolic link", [][]string{{"usr/lib/", "lib -> usr/lib"}, {"lib/a"}}, []string{"lib -> usr/lib", "usr/", "usr/lib/", "usr/lib/a"}},
		{"through an absolute symbolic link", [][]string{{"run/", "var/run -> /run"}, {"var/run/a"}}, []string{"run/", "run/a", "var/", "var/run -> /run"}},
		{"through a symbolic link to what is not there", [][]string{{"d -> e/f", "d/a"}}, []string{"d -> e/f", "e/", "e/f/", "e/f/a"}},
		{"whiteout through a symbolic link", [][]string{{"usr/lib/a", "lib -> usr/lib"}, {"lib/.wh.a"}}, []string{"lib -> usr/lib", "usr/", "usr/lib/"}},
		{"AUFS's own files", [][]string{{".wh..wh.aufs", ".wh..wh.plnk/", ".wh..wh.plnk/x", "a"}}, []string{"a"}},
		{"a link's own text may point anywhere", [][]string{{"a -> ../../../etc/passwd", "b -> /etc/shadow"}}, []string{"a -> ../../../etc/passwd", "b -> /etc/shadow"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var layers [][]byte
			for _, l := range tt.layers {
				layers = append(layers, pack(t, l...))
			}
			tree, err := load(t, Limits{}, layers...)
			if err != nil {
				t.Fatal(err)
			}
			got := list(tree.Root())
			slices.Sort(got)
			slices.Sort(tt.want)
			if !slices.Equal(got, tt.want) {
				t.Errorf("tree is %q, want %q", got, tt.want)
			}
		})
	}
}

func TestLayersThatPointOutsideAreRefused(t *testing.T) {
	deep := strings.Repeat("d/", 400)
	tests := []struct {
		name  string
		layer []string
		want  string
	}{
		{"parent", []string{"../a"}, `".." in a path`},
		{"parent in the middle", []string{"d/", "d/../../a"}, `".." in a path`},
		{"absolute parent", []string{"/../../etc/a"}, `".." in a path`},
		{"hard link to a parent", []string{"a => ../../etc/passwd"}, `".." in a path`},
		{"hard link to the host", []string{"a => /etc/passwd"}, "no such file"},
		{"hard link to a directory", []string{"d/", "a => d"}, "is a directory"},
		{"hard link to the root", []string{"a => /"}, "is a directory"},
		{"symbolic link upwards", []string{"l -> ../../..", "l/a"}, "points outside"},
		{"symbolic link upwards from below", []string{"d/l -> ../../../etc", "d/l/a"}, "points outside"},
		{"hard link through a symbolic link upwards", []string{"l -> ..", "a => l/etc/passwd"}, "points outside"},
		{"whiteout of the parent", []string{"d/", "d/.wh..."}, "points outside"},
		{"whiteout of the directory itself", []string{"d/", "d/.wh.."}, "points outside"},
		{"whiteout of nothing", []string{".wh."}, "points outside"},
		{"whiteout through a symbolic link upwards", []string{"l -> ../..", "l/.wh.etc"}, ""},
		{"symbolic links in a circle", []string{"a -> b", "b -> a", "a/x"}, "symbolic links on its path"},
		{"below a file", []string{"a", "a/b"}, "is not a directory"},
		{"below a whiteout", []string{".wh.a/b"}, "is a whiteout"},
		{"the root is a file", []string{"."}, "must be a directory"},
		{"the root is a link", []string{". -> /"}, "must be a directory"},
		{"a long name", []string{strings.Repeat("n", 256)}, "at most 255"},
		{"a long name of a directory on the path", []string{strings.Repeat("n", 256) + "/a"}, "at most 255"},
		{"a long name of a hard link", []string{"a", strings.Repeat("n", 256) + " => a"}, "at most 255"},
		{"a long path", []string{strings.Repeat("p/", 3000)}, "beyond the limit"},
		{"a deep tree through links", []string{deep, "l1 -> " + deep, "l1/" + deep, "l2 -> l1/" + deep, "l2/" + deep, "l3 -> l2/" + deep,
			"l3/" + deep, "l4 -> l3/" + deep, "l4/" + deep, "l5 -> l4/" + deep, "l5/" + deep}, "beyond the limit"},
		{"a long target", []string{"a -> " + strings.Repeat("t", 4096)}, "target of 4096 bytes"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			layers := [][]byte{pack(t, tt.layer...)}
			if tt.want == "" { // whiteouts count for the layers below
				layers, tt.want = [][]byte{pack(t, tt.layer[0]), pack(t, tt.layer[1:]...)}, "points outside"
			}
			_, err := load(t, Limits{}, layers...)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want one with %q", err, tt.want)
			}
		})
	}
}

func TestHeadersThatNoFileSystemCanHoldAreRefused(t *testing.T) {
	tests := []struct {
		name   string
		header tar.Header
		want   string
	}{
		{"owner beyond 32 bits", tar.Header{Name: "a", Uid: 1 << 32, Typeflag: tar.TypeReg}, "beyond 32 bits"},
		{"owner that means none", tar.Header{Name: "a", Gid: 1<<32 - 1, Typeflag: tar.TypeReg}, "beyond 32 bits"},
		{"device beyond Linux's range", tar.Header{Name: "a", Devmajor: 1 << 13, Typeflag: tar.TypeChar}, "beyond Linux's range"},
		{"unknown type", tar.Header{Name: "a", Typeflag: 'Z'}, "type 'Z'"},
		{"long attribute name", tar.Header{Name: "a", Typeflag: tar.TypeReg, PAXRecords: map[string]string{xattrPrefix + "user.big": strings.Repeat("v", 70_000)}}, "at most 65535"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var b bytes.Buffer
			w := tar.NewWriter(&b)
			if err := errors.Join(w.WriteHeader(&tt.header), w.Close()); err != nil {
				t.Fatal(err)
			}
			if _, err := load(t, Limits{}, b.Bytes()); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want one with %q", err, tt.want)
			}
		})
	}
}

func TestLimitsHold(t *testing.T) {
	var big bytes.Buffer
	w := tar.NewWriter(&big)
	err := w.WriteHeader(&tar.Header{Name: "big", Typeflag: tar.TypeReg, Size: 1 << 20})
	for range 1 << 10 {
		_, werr := w.Write(make([]byte, 1<<10))
		err = errors.Join(err, werr)
	}
	if err = errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	var many []string
	for i := range 1000 {
		many = append(many, fmt.Sprint("file-", i))
	}
	tests := []struct {
		name   string
		limits Limits
		layer  []byte
		ok     bool
	}{
		{"bytes", Limits{Bytes: 1 << 20}, big.Bytes(), false},
		{"bytes enough", Limits{Bytes: 2 << 20}, big.Bytes(), true},
		{"bytes after the end", Limits{Bytes: 1 << 20}, append(pack(t, "a"), make([]byte, 1<<20)...), false},
		{"size", Limits{Size: 1<<20 - 1}, big.Bytes(), false},
		{"size enough", Limits{Size: 1 << 20}, big.Bytes(), true},
		{"entries", Limits{Entries: 999}, pack(t, many...), false},
		{"entries enough", Limits{Entries: 1000}, pack(t, many...), true},
		{"path", Limits{PathLength: 10}, pack(t, "0123456789a"), false},
		{"path enough", Limits{PathLength: 11}, pack(t, "0123456789a"), true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := load(t, tt.limits, tt.layer)
			if tt.ok && err != nil || !tt.ok && !errors.Is(err, ErrLimit) {
				t.Errorf("error %v, accepted should be %v", err, tt.ok)
			}
		})
	}
	// Two layers share one budget.
	if _, err := load(t, Limits{Entries: 1500}, pack(t, many...), pack(t, many...)); !errors.Is(err, ErrLimit) {
		t.Errorf("error %v, want %v", err, ErrLimit)
	}
}

func TestCutOffLayersAreRefused(t *testing.T) {
	// A tar without its end marks, or without the padding of its last entry, is one all the same: there the digest tells.
	const header, content = 512, 2000
	name := strings.Repeat("n", 50)
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	err := w.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Size: content})
	_, werr := w.Write(bytes.Repeat([]byte("c"), content))
	if err = errors.Join(err, werr, w.Close()); err != nil {
		t.Fatal(err)
	}
	for size := 1; size < header+content; size += 7 {
		if size == header {
			continue
		}
		if _, err := load(t, Limits{}, b.Bytes()[:size]); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Fatalf("cut after %d of %d bytes: error %v", size, b.Len(), err)
		}
	}
}

func TestHiddenContentIsKnown(t *testing.T) {
	tree, err := load(t, Limits{}, pack(t, "a", "b", "c => b", "d/e"), pack(t, ".wh.b", "a", ".wh.d"))
	if err != nil {
		t.Fatal(err)
	}
	var sizes []int64
	for _, n := range tree.Unused() {
		sizes = append(sizes, n.Data.Size())
	}
	// The lower a, and d/e; b lives on as c.
	if !slices.Equal(sizes, []int64{1, 3}) {
		t.Errorf("unused contents have sizes %v", sizes)
	}
}

func TestMetadataOfTheLastEntryCounts(t *testing.T) {
	when := time.Unix(1_700_000_000, 123_456_789)
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	err := w.WriteHeader(&tar.Header{Name: "./", Typeflag: tar.TypeDir, Mode: 0o1711, Uid: 1<<32 - 2, Gid: 5, ModTime: when, Format: tar.FormatPAX,
		PAXRecords: map[string]string{xattrPrefix + "user.a%3Db%25": "v\x00", xattrPrefix + "com.apple.x": "dropped", xattrPrefix + "trusted.overlay.opaque": "y"}})
	if err = errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	tree, err := load(t, Limits{}, pack(t, "a"), b.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	root := tree.Root()
	if root.Mode != erofs.ModeDir|0o1711 || root.UID != 1<<32-2 || root.GID != 5 || root.Mtime != when.Unix() || root.MtimeNsec != 123_456_789 {
		t.Errorf("root is %+v", root)
	}
	if want := []erofs.Xattr{{Name: "user.a=b%", Value: "v\x00"}}; !slices.Equal(root.Xattrs, want) {
		t.Errorf("extended attributes %q, want %q", root.Xattrs, want)
	}
	if !slices.Equal(list(root), []string{"a"}) {
		t.Errorf("tree is %q", list(root))
	}
}

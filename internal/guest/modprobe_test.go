package guest

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/runcvm/runcvm/internal/guestapi"
)

func testIndex(t *testing.T) moduleIndex {
	t.Helper()
	dir := t.TempDir()
	for name, content := range map[string]string{
		indexLoad:    "aes_x kernel/aes-x.ko\nloop kernel/loop.ko\nnf ?kernel/crc.ko kernel/base.ko kernel/nf.ko\nnf_tables kernel/nf_tables.ko\n",
		indexAlias:   "aes aes_x\naes aes_y\nchar_major_10_237 loop\nfs_x loop\n",
		indexPattern: "block_major_7_* loop\npci:v0000[1_3]??bc*sc* nf\n",
		indexBuiltin: "ext4\nunix\n",
		indexDevname: "loop loop-control c10:237\nbroken\ntun net/tun c10:200\nevil ../../x c1:1\nblk some/disk b8:1\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return moduleIndex{dir}
}

func TestModulesAreFoundByNameAliasAndPattern(t *testing.T) {
	x := testIndex(t)
	for name, want := range map[string]string{
		"loop": "loop", "nf": "nf", "nf-tables": "nf_tables", "aes_x": "aes_x", "fs-x": "loop", "aes": "aes_x aes_y",
		"char-major-10-237": "loop", "block-major-7-3": "loop", "pci:v00002abbcXsc": "nf", "ext4": "", "unix": "",
	} {
		got, err := x.find(name)
		if err != nil || strings.Join(got, " ") != want {
			t.Errorf("%s: %q %v, want %q", name, got, err, want)
		}
	}
	for _, name := range []string{"", "l", "loop1", "nf_table", "zzz", "block-major-8-1", "pci:v00004abbcXsc", "*", "\n", strings.Repeat("x", 5000)} {
		if got, err := x.find(name); err == nil {
			t.Errorf("%.20q: %q", name, got)
		}
	}
	got, err := x.load("nf")
	if want := []string{"?kernel/crc.ko", "kernel/base.ko", "kernel/nf.ko"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("nf: %q %v", got, err)
	}
	if got, err := x.load("aes_y"); err == nil {
		t.Errorf("a module that has no line: %q", got)
	}
}

func TestAnIndexThatLeavesTheDiskIsRefused(t *testing.T) {
	var loaded []string
	for _, p := range []string{"../x.ko", "/x.ko", "?../x.ko", ""} {
		if err := loadAll(t.TempDir(), []string{p}, &loaded); err == nil || !strings.Contains(err.Error(), "no path") {
			t.Errorf("%q: %v", p, err)
		}
	}
}

func TestEveryLineOfASortedFileIsFound(t *testing.T) {
	for _, lines := range [][]string{{"a 1"}, {"a 1", "a 2", "b 3"}, {"a 1", "ab 2", "b 3", "b 4", "c 5", "cc 6", "d"}} {
		b := []byte(strings.Join(lines, "\n") + "\n")
		want := map[string][]string{}
		for _, l := range lines {
			word, rest, _ := strings.Cut(l, " ")
			want[word] = append(want[word], rest)
		}
		for word, rest := range want {
			if got := linesOf(b, word); !slices.Equal(got, rest) {
				t.Errorf("%q in %q: %q", word, lines, got)
			}
		}
		for _, word := range []string{"", "0", "aa", "bb", "z"} {
			if got := linesOf(b, word); len(got) > 0 {
				t.Errorf("%q in %q: %q", word, lines, got)
			}
		}
	}
	if got := linesOf(nil, "a"); got != nil {
		t.Errorf("in nothing: %q", got)
	}
}

func TestNodesOfModulesThatAreNotLoaded(t *testing.T) {
	nodes, err := testIndex(t).devnames()
	if err != nil {
		t.Fatal(err)
	}
	want := []deviceNode{{path: "/dev/loop-control", major: 10, minor: 237}, {path: "/dev/net/tun", major: 10, minor: 200},
		{path: "/dev/some/disk", block: true, major: 8, minor: 1}}
	if !slices.Equal(nodes, want) {
		t.Errorf("got  %+v\nwant %+v", nodes, want)
	}
}

func TestAContainerGetsTheGuestsDevicesOnlyWhereItIsAskedFor(t *testing.T) {
	const plain = `{"process":{},"root":{},"linux":{}%s}`
	for annotations, want := range map[string]struct {
		devices bool
		err     string
	}{
		``: {}, `,"annotations":{}`: {},
		`,"annotations":{"` + guestapi.DevicesAnnotation + `":"guest"}`: {devices: true},
		`,"annotations":{"` + guestapi.DevicesAnnotation + `":"all"}`:   {err: "unknown"},
	} {
		raw := strings.Replace(plain, "%s", annotations, 1)
		out, _, err := completeConfig([]byte(raw), []string{"x"}, "/r", "/c", userLookup{})
		if want.err != "" {
			if err == nil || !strings.Contains(err.Error(), want.err) {
				t.Errorf("%s: %v", annotations, err)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		var spec struct {
			Linux struct{ Devices []specDevice }
		}
		if err := json.Unmarshal(out, &spec); err != nil {
			t.Fatal(err)
		}
		if (len(spec.Linux.Devices) > 0) != want.devices || strings.Contains(string(out), guestapi.DevicesAnnotation) {
			t.Errorf("%s: %s", annotations, out)
		}
	}
}

func TestNodesHaveTheModesThatUdevGives(t *testing.T) {
	for _, n := range []struct{ got, want deviceNode }{
		{deviceNode{path: "/dev/net/tun", mode: 0o600}, deviceNode{path: "/dev/net/tun", mode: 0o666}},
		{deviceNode{path: "/dev/vda", block: true, mode: 0o600}, deviceNode{path: "/dev/vda", block: true, mode: 0o660, gid: 6}},
		{deviceNode{path: "/dev/mem", mode: 0o600}, deviceNode{path: "/dev/mem", mode: 0o600}},
		{deviceNode{path: "/dev/kmsg", mode: 0o644}, deviceNode{path: "/dev/kmsg", mode: 0o644}},
	} {
		if got := n.got.likeUdev(); got != n.want {
			t.Errorf("%+v becomes %+v", n.got, got)
		}
	}
}

func FuzzLinesOf(f *testing.F) {
	f.Add([]byte("a 1\nb 2\n"), "a")
	f.Fuzz(func(_ *testing.T, b []byte, word string) {
		linesOf(b, word)
		matches(word, string(b[:min(len(b), 64)]))
	})
}

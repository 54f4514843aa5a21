//go:build e2e

package kernel

import (
	"context"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestTheIndexAgreesWithDepmod compares the index of the distribution's kernel with what depmod made of it.
func TestTheIndexAgreesWithDepmod(t *testing.T) {
	k, err := Find(context.Background(), Options{Roots: Roots, CacheDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	read := func(name string) string {
		b, err := os.ReadFile(filepath.Join(k.ModulesDir, name))
		if err != nil {
			t.Fatalf("%v: make setup runs depmod", err)
		}
		return string(b)
	}
	tree, err := readModules(k.ModulesDir)
	if err != nil {
		t.Fatal(err)
	}
	index := newModuleIndex(tree.builtin)
	for name, path := range tree.files {
		content, err := readModule(path)
		if err != nil {
			t.Fatal(err)
		}
		info, err := readModuleInfo(content)
		if err != nil {
			t.Fatal(err)
		}
		index.add(name, name+".ko", info)
	}
	files := index.files()
	compareLoading(t, string(files[indexLoad]), read("modules.dep"))
	compareAliases(t, string(files[indexAlias])+string(files[indexPattern]), read("modules.alias"))
	for line := range strings.Lines(read("modules.devname")) {
		if !strings.HasPrefix(line, "#") && !strings.Contains(string(files[indexDevname]), kernelName(strings.Fields(line)[0])+" "+
			strings.Join(strings.Fields(line)[1:], " ")+"\n") {
			t.Errorf("%s lacks %q", indexDevname, line)
		}
	}
}

// compareLoading compares what each module needs; what only a soft dependency wants is not in modules.dep.
func compareLoading(t *testing.T, load, dep string) {
	t.Helper()
	ours := map[string][]string{}
	for line := range strings.Lines(load) {
		words := strings.Fields(line)
		for _, p := range words[1:] {
			ours[words[0]] = append(ours[words[0]], moduleName(strings.TrimPrefix(p, "?")))
		}
	}
	count := 0
	for line := range strings.Lines(dep) {
		path, needs, _ := strings.Cut(line, ":")
		name := moduleName(path)
		for n := range strings.FieldsSeq(needs) {
			at := slices.Index(ours[name], moduleName(n))
			if at < 0 || at > slices.Index(ours[name], name) {
				t.Errorf("%s needs %s first, and is loaded by %q", name, moduleName(n), ours[name])
			}
		}
		if !slices.Contains(ours[name], name) {
			t.Errorf("%s is not loaded by %q", name, ours[name])
		}
		count++
	}
	if count != len(ours) || count < 100 {
		t.Errorf("%d modules, depmod has %d", len(ours), count)
	}
}

func compareAliases(t *testing.T, ours, theirs string) {
	t.Helper()
	set := func(text string) map[string]bool {
		out := map[string]bool{}
		for line := range strings.Lines(text) {
			if line = strings.TrimPrefix(strings.TrimSpace(line), "alias "); !strings.HasPrefix(line, "#") {
				out[kernelName(line)] = true
			}
		}
		return out
	}
	got, want := set(ours), set(theirs)
	for _, alias := range slices.Sorted(maps.Keys(want)) {
		if !got[alias] {
			t.Errorf("alias %q is not in the index", alias)
		}
	}
	if len(got) != len(want) {
		t.Errorf("%d aliases, depmod has %d", len(got), len(want))
	}
}

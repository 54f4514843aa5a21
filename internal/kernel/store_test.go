package kernel

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// importable writes one kernel in every form that Import takes.
func importable(t *testing.T) map[string]string {
	t.Helper()
	dir := t.TempDir()
	modules := map[string][]byte{
		"tree/lib/modules/" + testRelease + "/kernel/fs/erofs.ko": koFile("depends="),
		"tree/lib/modules/" + testRelease + "/modules.builtin":    []byte("kernel/fs/ext4.ko\n"),
	}
	write(t, dir, modules)
	write(t, dir, map[string][]byte{
		"tree/boot/vmlinuz-" + testRelease: vmlinuz(t),
		"tree/boot/config-" + testRelease:  []byte(fullConfig("EROFS_FS")),
		"vmlinux":                          goodKernel(),
		"package.deb":                      debOf(t, "xz", debFiles(t, "boot/", "lib/modules/")),
	})
	return map[string]string{
		"tree": filepath.Join(dir, "tree"), "vmlinuz": filepath.Join(dir, "tree/boot/vmlinuz-"+testRelease),
		"vmlinux": filepath.Join(dir, "vmlinux"), "deb": filepath.Join(dir, "package.deb"),
	}
}

func TestEveryKindOfKernelIsImportedAndFoundByItsName(t *testing.T) {
	for _, kind := range []string{"tree", "vmlinuz", "vmlinux", "deb"} {
		path, cache := importable(t)[kind], t.TempDir()
		k, err := Import(context.Background(), cache, path, "")
		if err != nil {
			t.Errorf("%s: %v", kind, err)
			continue
		}
		if k.Name != testRelease || k.Release != testRelease || k.Modules != (kind != "vmlinux") || k.Size == 0 {
			t.Errorf("%s: %+v", kind, k)
		}
		// The import stands for itself.
		if err := os.RemoveAll(path); err != nil {
			t.Fatal(err)
		}
		found, err := Find(context.Background(), Options{Path: k.Name, CacheDir: cache})
		if err != nil || found.Release != testRelease || (found.ModulesDir != "") != k.Modules {
			t.Errorf("%s: %+v %v", kind, found, err)
		}
		if k.Modules && !strings.HasPrefix(found.ModulesDir, filepath.Join(cache, k.Name)) {
			t.Errorf("%s: modules in %s", kind, found.ModulesDir)
		}
		if left, _ := filepath.Glob(filepath.Join(cache, ".tmp-*")); len(left) > 0 {
			t.Errorf("%s: left: %q", kind, left)
		}
	}
}

func TestAKernelThatLacksWhatGuestsNeedIsNotImported(t *testing.T) {
	dir, cache := t.TempDir(), t.TempDir()
	conf := strings.Replace(fullConfig(), "CONFIG_OVERLAY_FS=y\n", "", 1)
	write(t, dir, map[string][]byte{"vmlinuz-" + testRelease: vmlinuz(t), "config-" + testRelease: []byte(conf)})
	_, err := Import(context.Background(), cache, filepath.Join(dir, "vmlinuz-"+testRelease), "bad")
	if err == nil || !strings.Contains(err.Error(), "CONFIG_OVERLAY_FS is not set") {
		t.Errorf("%v", err)
	}
	// Without a configuration the modules tell.
	write(t, dir, map[string][]byte{"t/boot/vmlinuz-" + testRelease: vmlinuz(t),
		"t/lib/modules/" + testRelease + "/modules.builtin": []byte("kernel/fs/ext4/ext4.ko\n")})
	_, err = Import(context.Background(), cache, filepath.Join(dir, "t"), "bad")
	if err == nil || !strings.Contains(err.Error(), "CONFIG_OVERLAY_FS is neither built in nor a module") || strings.Contains(err.Error(), "EXT4") {
		t.Errorf("%v", err)
	}
	if entries, err := os.ReadDir(cache); err != nil || len(entries) > 0 {
		t.Errorf("left in the cache: %v %v", entries, err)
	}
}

func TestNamesOfKernels(t *testing.T) {
	for name, ok := range map[string]bool{
		"fast": true, "6.1.0-56-cloud-amd64": true, "kernel-1": false, "modules-x": true,
		"": false, "default": false, ".x": false, "a/b": false, "..": false, "a b": false, strings.Repeat("x", 65): false,
		"kernel-" + strings.Repeat("0", 32): false, "modules-" + strings.Repeat("a", 32): false,
	} {
		if err := CheckName(name); (err == nil) != ok {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func TestImportedKernelsAreListedChosenAndRemoved(t *testing.T) {
	cache, kinds := t.TempDir(), importable(t)
	if all, err := List(filepath.Join(cache, "none")); err != nil || len(all) > 0 {
		t.Errorf("%v %v", all, err)
	}
	for _, name := range []string{"b", "a"} {
		if _, err := Import(context.Background(), cache, kinds["tree"], name); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := Import(context.Background(), cache, kinds["tree"], "a"); err == nil || !strings.Contains(err.Error(), "a already") {
		t.Errorf("a second one of the same name: %v", err)
	}
	if err := SetDefault(cache, "c"); !errors.Is(err, ErrUnknown) {
		t.Errorf("%v", err)
	}
	for _, name := range []string{"a", "b"} {
		if err := SetDefault(cache, name); err != nil {
			t.Fatal(err)
		}
	}
	all, err := List(cache)
	if err != nil || len(all) != 2 || all[0].Name != "a" || all[0].Default || !all[1].Default {
		t.Errorf("%+v %v", all, err)
	}
	k, err := Find(context.Background(), Options{CacheDir: cache})
	if err != nil || !strings.HasPrefix(k.ModulesDir, filepath.Join(cache, "b")+"/") {
		t.Errorf("the default: %+v %v", k, err)
	}
	if err := Remove(cache, "b"); err == nil || !strings.Contains(err.Error(), "default") {
		t.Errorf("the default was removed: %v", err)
	}
	if err := errors.Join(Remove(cache, "a"), SetDefault(cache, ""), Remove(cache, "b")); err != nil {
		t.Error(err)
	}
	if err := Remove(cache, "b"); !errors.Is(err, ErrUnknown) {
		t.Errorf("%v", err)
	}
	if all, err := List(cache); err != nil || len(all) > 0 {
		t.Errorf("%v %v", all, err)
	}
}

func TestADefaultThatIsGoneIsAnError(t *testing.T) {
	cache := t.TempDir()
	if err := os.Symlink("../gone", filepath.Join(cache, defaultLink)); err != nil {
		t.Fatal(err)
	}
	if _, err := Find(context.Background(), Options{CacheDir: cache}); !errors.Is(err, ErrUnknown) {
		t.Errorf("%v", err)
	}
	if _, err := List(cache); err != nil {
		t.Error(err)
	}
}

func TestCheckTellsOfEveryOption(t *testing.T) {
	dir := t.TempDir()
	conf := strings.Replace(fullConfig("EROFS_FS"), "CONFIG_PID_NS=y\n", "", 1) + "CONFIG_WIREGUARD=m\nCONFIG_TUN=y\n"
	write(t, dir, map[string][]byte{
		"boot/vmlinuz-" + testRelease: vmlinuz(t), "boot/config-" + testRelease: []byte(conf),
		"lib/modules/" + testRelease + "/erofs.ko": koFile("depends="),
	})
	for _, o := range []Options{{Path: dir, CacheDir: t.TempDir()}, {Roots: []string{dir}, CacheDir: t.TempDir()}} {
		r, err := Check(context.Background(), o)
		if err != nil {
			t.Fatal(err)
		}
		if r.Usable || r.Release != testRelease || r.Vmlinux != filepath.Join(dir, "boot/vmlinuz-"+testRelease) {
			t.Errorf("%+v", r)
		}
		for name, want := range map[string]State{
			"CONFIG_PID_NS": Missing, "CONFIG_EROFS_FS": AsModule, "CONFIG_EXT4_FS": BuiltIn, "CONFIG_WIREGUARD": Missing,
			"CONFIG_TUN": BuiltIn, "CONFIG_BRIDGE": Missing,
		} {
			i := slices.IndexFunc(r.Options, func(o Option) bool { return o.Name == name })
			if i < 0 || r.Options[i].State != want || (want == Missing) != (r.Options[i].Why != "") {
				t.Errorf("%s: %+v, want %s", name, r.Options[max(i, 0)], want)
			}
		}
	}
	write(t, dir, map[string][]byte{"bare": goodKernel()})
	r, err := Check(context.Background(), Options{Path: filepath.Join(dir, "bare"), CacheDir: t.TempDir()})
	if err != nil || !r.Usable || r.Options[0].State != Unknown {
		t.Errorf("a kernel that tells nothing: %+v %v", r, err)
	}
}

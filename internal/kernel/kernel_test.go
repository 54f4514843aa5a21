package kernel

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// fullConfig has everything that the guest needs, built in unless the option is among modules.
func fullConfig(modules ...string) string {
	var b strings.Builder
	b.WriteString("# a comment\n# CONFIG_NOTHING is not set\n")
	for _, r := range requirements {
		v := "y"
		if slices.Contains(modules, r.option) {
			v = "m"
		}
		fmt.Fprintf(&b, "CONFIG_%s=%s\n", r.option, v)
	}
	return b.String()
}

// koFile is a kernel module with this .modinfo.
func koFile(modinfo ...string) []byte {
	info := []byte(strings.Join(modinfo, "\x00") + "\x00")
	names := []byte("\x00.modinfo\x00.shstrtab\x00")
	var b bytes.Buffer
	h := elf.Header64{Type: uint16(elf.ET_REL), Machine: uint16(elf.EM_X86_64), Version: 1, Ehsize: 64, Shentsize: 64, Shnum: 3, Shstrndx: 2,
		Shoff: uint64(64 + len(info) + len(names))}
	copy(h.Ident[:], elf.ELFMAG+"\x02\x01\x01")
	sections := []elf.Section64{{},
		{Name: 1, Type: uint32(elf.SHT_PROGBITS), Off: 64, Size: uint64(len(info))},
		{Name: 10, Type: uint32(elf.SHT_STRTAB), Off: 64 + uint64(len(info)), Size: uint64(len(names))}}
	for _, v := range []any{h, info, names, sections} {
		if err := binary.Write(&b, binary.LittleEndian, v); err != nil {
			panic(err)
		}
	}
	return b.Bytes()
}

func signed(module []byte) []byte {
	signature := bytes.Repeat([]byte("s"), 300)
	b := append(bytes.Clone(module), signature...)
	b = append(b, make([]byte, signatureHeaderSize-4)...)
	b = binary.BigEndian.AppendUint32(b, uint32(len(signature)))
	return append(b, signatureMagic...)
}

func write(t *testing.T, root string, files map[string][]byte) {
	t.Helper()
	for name, content := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func vmlinuz(t testing.TB) []byte { return bzImageOf(payloads(t)["zstd"], len(goodKernel())) }

// vmlinuzOf is a vmlinuz of another release; it must be as long as testRelease.
func vmlinuzOf(t testing.TB, release string) []byte {
	t.Helper()
	if len(release) != len(testRelease) {
		t.Fatalf("release %q", release)
	}
	b := bytes.ReplaceAll(goodKernel(), []byte(testRelease), []byte(release))
	image := bzImageOf(compressed(t, b, compressors()["gzip"]), -1)
	return bytes.ReplaceAll(image, []byte(testRelease), []byte(release))
}

func TestFindEveryKindOfKernel(t *testing.T) {
	root := t.TempDir()
	write(t, root, map[string][]byte{
		"boot/vmlinuz-" + testRelease:                              vmlinuz(t),
		"boot/config-" + testRelease:                               []byte(fullConfig("EROFS_FS")),
		"lib/modules/" + testRelease + "/kernel/fs/erofs/erofs.ko": koFile("depends="),
		"lib/modules/" + testRelease + "/modules.builtin":          nil,
		"a/plain/vmlinux":                                          goodKernel(),
		"a/plain/bzImage":                                          vmlinuz(t),
		"a/other/vmlinuz-misnamed":                                 vmlinuz(t),
		"a/other/config-" + testRelease:                            []byte(fullConfig()),
		"boot/vmlinuz-6.1.0-9-cloud-amd64.old":                     []byte("not this one"),
		"boot/initrd.img-6.1.0-9-cloud-amd64":                      []byte("nor this"),
		"with/boot/vmlinux-" + testRelease:                         goodKernel(),
		"with/boot/config-" + testRelease:                          []byte(fullConfig()),
		"with/usr/lib/modules/" + testRelease + "/modules.builtin": nil,
		"image.deb": debOf(t, "xz", debFiles(t, "./boot/", "./usr/lib/modules/")),
	})
	modules := filepath.Join(root, "lib/modules", testRelease)
	for name, tt := range map[string]struct {
		path, vmlinux, modules, config string
	}{
		"a root":              {".", "", modules, filepath.Join(root, "boot/config-"+testRelease)},
		"a vmlinuz":           {"boot/vmlinuz-" + testRelease, "", modules, filepath.Join(root, "boot/config-"+testRelease)},
		"a plain vmlinux":     {"a/plain/vmlinux", filepath.Join(root, "a/plain/vmlinux"), "", ""},
		"a plain bzImage":     {"a/plain/bzImage", "", "", ""},
		"what the image says": {"a/other/vmlinuz-misnamed", "", "", filepath.Join(root, "a/other/config-"+testRelease)},
		"a merged /usr": {"with/boot/vmlinux-" + testRelease, filepath.Join(root, "with/boot/vmlinux-"+testRelease),
			filepath.Join(root, "with/usr/lib/modules", testRelease), filepath.Join(root, "with/boot/config-"+testRelease)},
	} {
		t.Run(name, func(t *testing.T) {
			cache := filepath.Join(t.TempDir(), "new", "cache")
			o := Options{Path: filepath.Join(root, tt.path), CacheDir: cache}
			k, err := Find(context.Background(), o)
			if err != nil {
				t.Fatal(err)
			}
			if k.Release != testRelease || k.ModulesDir != tt.modules || k.ConfigPath != tt.config ||
				tt.vmlinux != "" && k.Vmlinux != tt.vmlinux {
				t.Errorf("%+v", k)
			}
			if b, err := os.ReadFile(k.Vmlinux); err != nil || !bytes.Equal(b, goodKernel()) {
				t.Errorf("%s: %d bytes, %v", k.Vmlinux, len(b), err)
			}
			again, err := Find(context.Background(), o)
			if err != nil || again != k {
				t.Errorf("the second time: %+v, %v", again, err)
			}
		})
	}
	t.Run("a package", func(t *testing.T) {
		cache := t.TempDir()
		k, err := Find(context.Background(), Options{Path: filepath.Join(root, "image.deb"), CacheDir: cache})
		if err != nil {
			t.Fatal(err)
		}
		if k.Release != testRelease || !strings.HasPrefix(k.ModulesDir, cache) || !isRegular(filepath.Join(k.ModulesDir, "kernel/a.ko")) {
			t.Errorf("%+v", k)
		}
	})
}

func TestFindWorksOnceForManyAtATime(t *testing.T) {
	root, cache := t.TempDir(), t.TempDir()
	write(t, root, map[string][]byte{"boot/vmlinuz-" + testRelease: vmlinuz(t), "boot/config-" + testRelease: []byte(fullConfig())})
	found := make([]Kernel, 16)
	var wg sync.WaitGroup
	for i := range found {
		wg.Go(func() {
			k, err := Find(context.Background(), Options{Path: root, CacheDir: cache})
			if err != nil {
				t.Error(err)
			}
			found[i] = k
		})
	}
	wg.Wait()
	for _, k := range found {
		if k != found[0] {
			t.Errorf("%+v and %+v", k, found[0])
		}
	}
	entries, err := os.ReadDir(cache)
	if err != nil || len(entries) != 1 {
		t.Errorf("the cache holds %v, %v", entries, err)
	}
	before, err := os.Stat(found[0].Vmlinux)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Find(context.Background(), Options{Path: root, CacheDir: cache}); err != nil {
		t.Fatal(err)
	}
	if after, err := os.Stat(found[0].Vmlinux); err != nil || !os.SameFile(before, after) {
		t.Errorf("unpacked again: %v", err)
	}
}

func TestFindTakesAChangedKernelAnew(t *testing.T) {
	root, cache := t.TempDir(), t.TempDir()
	image := filepath.Join(root, "boot/vmlinuz-"+testRelease)
	write(t, root, map[string][]byte{"boot/vmlinuz-" + testRelease: vmlinuz(t), "boot/config-" + testRelease: []byte(fullConfig())})
	find := func() (Kernel, error) { return Find(context.Background(), Options{Path: image, CacheDir: cache}) }
	first, err := find()
	if err != nil {
		t.Fatal(err)
	}
	broken := bzImageOf([]byte("????????????"), 4)
	if err := os.WriteFile(image, broken, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := find(); err == nil || !strings.Contains(err.Error(), "unknown compression") {
		t.Errorf("a changed image: %v", err)
	}
	write(t, root, map[string][]byte{"boot/vmlinuz-" + testRelease: vmlinuz(t)})
	k, err := find()
	if err != nil || k.Vmlinux == first.Vmlinux {
		t.Errorf("%+v %v", k, err)
	}
	t.Run("and a damaged entry of the cache", func(t *testing.T) {
		if err := os.Remove(k.Vmlinux); err != nil {
			t.Fatal(err)
		}
		if _, err := find(); err == nil {
			if k, err = find(); err != nil {
				t.Fatal(err)
			}
		}
		k, err := find()
		if err != nil || !isRegular(k.Vmlinux) {
			t.Errorf("%+v %v", k, err)
		}
	})
}

func TestFindChoosesTheBestOfTheFirstRoot(t *testing.T) {
	const old, newer, generic, next = "6.1.0-8-cloud-amd64", "6.1.0-9-cloud-amd64", "6.9.0-9-flour-amd64", "7.1.0-9-cloud-amd64"
	a, b := t.TempDir(), t.TempDir()
	write(t, a, map[string][]byte{
		"boot/vmlinuz-" + old: vmlinuzOf(t, old), "boot/config-" + old: []byte(fullConfig()),
		"boot/vmlinuz-" + newer: vmlinuzOf(t, newer), "boot/config-" + newer: []byte(fullConfig()),
		"boot/vmlinuz-" + generic: vmlinuzOf(t, generic), "boot/config-" + generic: []byte(fullConfig()),
	})
	write(t, b, map[string][]byte{"boot/vmlinuz-" + next: vmlinuzOf(t, next), "boot/config-" + next: []byte(fullConfig())})
	find := func(roots ...string) (Kernel, error) {
		return Find(context.Background(), Options{Roots: roots, CacheDir: t.TempDir()})
	}
	if k, err := find(filepath.Join(a, "missing"), a, b); err != nil || k.Release != newer {
		t.Errorf("%+v %v; want %s", k, err, newer)
	}
	if k, err := find(b, a); err != nil || k.Release != next {
		t.Errorf("%+v %v; want %s", k, err, next)
	}
	// One that cannot be used is passed over.
	write(t, b, map[string][]byte{"boot/config-" + next: []byte("CONFIG_PVH=y\n")})
	if k, err := find(b, a); err != nil || k.Release != newer {
		t.Errorf("%+v %v; want %s", k, err, newer)
	}
	if _, err := find(b); err == nil || !strings.Contains(err.Error(), "CONFIG_OVERLAY_FS") {
		t.Errorf("%v", err)
	}
	if _, err := find(t.TempDir()); !errors.Is(err, ErrNotFound) {
		t.Errorf("%v", err)
	}
}

func TestVersionsAreOrdered(t *testing.T) {
	inOrder := []string{"5.10.0-30-cloud-amd64", "6.1-rc3", "6.1", "6.1.0-9-cloud-amd64", "6.1.0-56-cloud-amd64", "6.1.10", "6.12.1", "10.0"}
	for i, a := range inOrder {
		for j, b := range inOrder {
			if got := compareVersions(a, b); sign(got) != sign(i-j) {
				t.Errorf("%s and %s: %d", a, b, got)
			}
		}
	}
}

func TestKernelWithoutWhatTheGuestNeedsIsRefusedByName(t *testing.T) {
	mods := &moduleTree{dir: "/m", files: map[string]string{"erofs": "x"}, builtin: map[string]bool{"vsock": true}}
	without := func(text string, options ...string) string {
		for _, o := range options {
			text = strings.ReplaceAll(text, "CONFIG_"+o+"=y\n", "# CONFIG_"+o+" is not set\n")
		}
		return text
	}
	for name, tt := range map[string]struct {
		config string
		mods   *moduleTree
		want   []string
	}{
		"complete":               {fullConfig(), nil, nil},
		"modules that are there": {fullConfig("EROFS_FS", "VSOCKETS"), mods, nil},
		"all faults at once": {without(fullConfig(), "OVERLAY_FS", "PID_NS", "VIRTIO_MMIO"), nil,
			[]string{"CONFIG_OVERLAY_FS is not set", "CONFIG_PID_NS is not set", "CONFIG_VIRTIO_MMIO is not set", "the VMM's devices"}},
		"a module and no directory": {fullConfig("EROFS_FS"), nil, []string{"CONFIG_EROFS_FS is a module and there is no modules directory"}},
		"a module that is missing":  {fullConfig("OVERLAY_FS"), mods, []string{"overlay.ko is not in /m"}},
		"a module that must not be": {fullConfig("DEVTMPFS"), mods, []string{"CONFIG_DEVTMPFS is a module but must be built in"}},
	} {
		conf, err := parseConfig(strings.NewReader(tt.config))
		if err != nil {
			t.Fatal(err)
		}
		err = refusal(facts{conf: conf, mods: tt.mods}.check(requirements))
		if (err == nil) != (tt.want == nil) {
			t.Errorf("%s: %v", name, err)
		}
		for _, w := range tt.want {
			if err != nil && !strings.Contains(err.Error(), w) {
				t.Errorf("%s: %v lacks %q", name, err, w)
			}
		}
	}
	if _, err := parseConfig(strings.NewReader("hello\n")); err == nil {
		t.Error("a file without options is a configuration")
	}
}

func TestConfigurationInsideOfTheImageIsChecked(t *testing.T) {
	embed := func(conf string) string {
		var z bytes.Buffer
		w := gzip.NewWriter(&z)
		if _, err := w.Write([]byte(conf)); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(t.TempDir(), "vmlinux")
		image := append(goodKernel(), "IKCFG_ST"+z.String()+"IKCFG_ED"...)
		if err := os.WriteFile(path, image, 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	k, err := Find(context.Background(), Options{Path: embed(fullConfig()), CacheDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(k.ConfigPath); err != nil || string(b) != fullConfig() {
		t.Errorf("%s: %v", k.ConfigPath, err)
	}
	if _, err := Find(context.Background(), Options{Path: embed("CONFIG_PVH=y\n"), CacheDir: t.TempDir()}); err == nil ||
		!strings.Contains(err.Error(), "CONFIG_OVERLAY_FS") {
		t.Errorf("%v", err)
	}
}

func TestBannerIsFoundAcrossTheReadersChunks(t *testing.T) {
	for _, at := range []int{4<<20 - 30, 4<<20 - 3, 4 << 20, 4<<20 + 200} {
		image := make([]byte, at, at+100)
		image = append(image, "Linux version 6.6.6-x (a)"...)
		if release, err := scan(t, t.TempDir(), image); err != nil || release != "6.6.6-x" {
			t.Errorf("at %d: %q %v", at, release, err)
		}
	}
}

// debFiles are the files of a kernel's package.
func debFiles(t *testing.T, boot, modules string) map[string][]byte {
	return map[string][]byte{
		boot + "vmlinuz-" + testRelease:                  vmlinuz(t),
		boot + "config-" + testRelease:                   []byte(fullConfig()),
		modules + testRelease + "/kernel/a.ko":           koFile("depends="),
		"./usr/share/doc/linux-image/changelog.gz":       []byte("not needed"),
		boot + "../../outside":                           []byte("never written"),
		modules + "../../../../../../../../tmp/runcvm-x": []byte("never written"),
	}
}

func debOf(t *testing.T, compression string, files map[string][]byte) []byte {
	t.Helper()
	var data bytes.Buffer
	w := tar.NewWriter(&data)
	for name, content := range files {
		h := &tar.Header{Name: name, Typeflag: tar.TypeReg, Size: int64(len(content)), Mode: 0o4777, ModTime: time.Unix(1, 0)}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.WriteHeader(&tar.Header{Name: "./boot/link", Typeflag: tar.TypeSymlink, Linkname: "/etc/passwd"}); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	member, body := "data.tar", data.Bytes()
	if compression != "" {
		open := compressors()[map[string]string{"xz": "xz", "zst": "zstd", "gz": "gzip"}[compression]]
		member, body = member+"."+compression, compressed(t, body, open)
	}
	out := []byte(arMagic)
	for _, m := range []struct {
		name string
		body []byte
	}{{"debian-binary", []byte("2.0\n")}, {"control.tar.xz", []byte("odd")}, {member, body}} {
		out = fmt.Appendf(out, "%-16s%-12d%-6d%-6d%-8o%-10d`\n", m.name, 0, 0, 0, 0o100644, len(m.body))
		out = append(out, m.body...)
		if len(m.body)%2 == 1 {
			out = append(out, '\n')
		}
	}
	return out
}

func TestPackagesAreUnpackedWithoutLeavingTheirDirectory(t *testing.T) {
	for _, compression := range []string{"", "gz", "xz", "zst"} {
		parent := t.TempDir()
		dir := filepath.Join(parent, "a/b/c")
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		deb := debOf(t, compression, debFiles(t, "./boot/", "lib/modules/"))
		if err := extractDeb(context.Background(), bytes.NewReader(deb), dir); err != nil {
			t.Fatalf("%s: %v", compression, err)
		}
		var got []string
		err := filepath.WalkDir(parent, func(path string, d os.DirEntry, err error) error {
			if err == nil && !d.IsDir() {
				name, _ := filepath.Rel(dir, path)
				got = append(got, name)
			}
			return err
		})
		want := []string{"boot/config-" + testRelease, "boot/vmlinuz-" + testRelease, "lib/modules/" + testRelease + "/kernel/a.ko"}
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: %q, %v", compression, got, err)
		}
	}
}

func TestBrokenPackagesAreErrors(t *testing.T) {
	good := debOf(t, "xz", debFiles(t, "./boot/", "./lib/modules/"))
	for name, tt := range map[string]struct {
		deb  []byte
		want string
	}{
		"only the magic":     {good[:8], "no data.tar"},
		"without data":       {good[:8+60+4], "no data.tar"},
		"truncated":          {good[:len(good)/2], "package"},
		"corrupt header":     {bytes.Replace(good, []byte("`\n"), []byte("xx"), 1), "corrupt ar header"},
		"a negative size":    {bytes.Replace(good, []byte("4         `"), []byte("-4        `"), 1), "corrupt ar header"},
		"unknown format":     {bytes.Replace(good, []byte("data.tar.xz"), []byte("data.tar.qq"), 1), "unknown compression"},
		"not that format":    {bytes.Replace(good, []byte("data.tar.xz "), []byte("data.tar.zst"), 1), "package"},
		"the same one twice": {debOf(t, "", map[string][]byte{"boot/a": nil, "./boot/a": nil}), "exists"},
	} {
		if err := extractDeb(context.Background(), bytes.NewReader(tt.deb), t.TempDir()); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v; want %q", name, err, tt.want)
		}
	}
}

// FuzzPackage hands arbitrary bytes to the reader of packages.
func FuzzPackage(f *testing.F) {
	t := &testing.T{}
	f.Add(debOf(t, "", map[string][]byte{"boot/vmlinuz-1": []byte("x")}))
	f.Add(debOf(t, "gz", map[string][]byte{"boot/../../x": []byte("x")}))
	f.Fuzz(func(t *testing.T, deb []byte) {
		parent := t.TempDir()
		dir := filepath.Join(parent, "dir")
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		_ = extractDeb(context.Background(), bytes.NewReader(deb), dir)
		if entries, err := os.ReadDir(parent); err != nil || len(entries) != 1 {
			t.Fatalf("written outside: %v %v", entries, err)
		}
	})
}

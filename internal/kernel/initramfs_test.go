package kernel

import (
	"bytes"
	"compress/gzip"
	"context"
	"debug/elf"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cavaliergopher/cpio"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// bootTree is a modules directory as the boot needs it, with names and compressions as distributions have them. erofs is built in.
func bootTree(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "lib/modules", testRelease)
	pack := func(content []byte, open func(io.Writer) (io.WriteCloser, error)) []byte {
		return compressed(t, content, open)
	}
	write(t, dir, map[string][]byte{
		"kernel/net/vmw_vsock/vsock.ko": signed(koFile("depends=")),
		"kernel/net/vmw_vsock/vmw_vsock_virtio_transport_common.ko.xz": pack(koFile("depends=vsock"),
			func(w io.Writer) (io.WriteCloser, error) { return xz.WriterConfig{CheckSum: xz.CRC32}.NewWriter(w) }),
		"kernel/net/vmw_vsock/vmw_vsock_virtio_transport.ko.zst": pack(
			koFile("alias=x", "depends=virtio,vsock,vmw_vsock_virtio_transport_common"),
			func(w io.Writer) (io.WriteCloser, error) { return zstd.NewWriter(w) }),
		"kernel/drivers/virtio/virtio.ko":      koFile("depends="),
		"kernel/drivers/virtio/virtio_ring.ko": koFile("depends=virtio"),
		"kernel/drivers/virtio/virtio_mmio.ko.gz": pack(koFile("depends=virtio,virtio_ring"),
			func(w io.Writer) (io.WriteCloser, error) { return gzip.NewWriter(w), nil }),
		"kernel/drivers/block/virtio-blk.ko":      koFile("depends=virtio,virtio_ring", "softdep=pre: crc32c post: later"),
		"kernel/crypto/crc32c_generic.ko":         koFile("alias=crypto-crc32c", "alias=crc32c", "depends=virtio"),
		"kernel/arch/x86/crypto/crc32c-intel.ko":  koFile("alias=crc32c", "depends="),
		"kernel/crypto/xcrc.ko":                   koFile("alias=crc32c", "depends="),
		"kernel/lib/later.ko":                     koFile("depends="),
		"kernel/fs/overlayfs/overlay.ko":          koFile("depends=", "softdep=pre: missing overlay"),
		"updates/overlay.ko":                      koFile("depends=", "intree=N"),
		"kernel/drivers/unneeded.ko":              koFile("depends=virtio"),
		"modules.builtin":                         []byte("kernel/fs/erofs/erofs.ko\nkernel/fs/ext4/ext4.ko\n"),
		"modules.dep":                             []byte("this one is not read\n"),
		"kernel/net/vmw_vsock/vsock.ko.unrelated": []byte("x"),
	})
	return dir
}

func TestModulesAreResolvedInTheOrderOfLoading(t *testing.T) {
	tree, err := readModules(bootTree(t))
	if err != nil {
		t.Fatal(err)
	}
	modules, err := tree.resolve(bootModules)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, m := range modules {
		names = append(names, m.name)
		if !isELF(m.content) {
			t.Errorf("%s is not unpacked", m.name)
		}
		if m.name == "overlay" && !bytes.Contains(m.content, []byte("intree=N")) {
			t.Error("the module under updates does not win")
		}
	}
	want := []string{"vsock", "virtio", "virtio_ring", "virtio_mmio", "vmw_vsock_virtio_transport_common",
		"vmw_vsock_virtio_transport", "crc32c_generic", "virtio_blk", "overlay"}
	if !slices.Equal(names, want) {
		t.Errorf("got  %q\nwant %q", names, want)
	}
}

func TestModulesThatCannotBeLoadedAreErrors(t *testing.T) {
	for name, tt := range map[string]struct {
		files map[string][]byte
		want  string
	}{
		"a circle":                {map[string][]byte{"vsock.ko": koFile("depends=a"), "a.ko": koFile("depends=vsock")}, "circle: vsock -> a -> vsock"},
		"a missing dependency":    {map[string][]byte{"vsock.ko": koFile("depends=gone")}, "needs gone"},
		"no ELF":                  {map[string][]byte{"vsock.ko": bytes.Repeat([]byte("text"), 64)}, "bad magic"},
		"no module":               {map[string][]byte{"vsock.ko": goodKernel()}, "no .modinfo"},
		"a corrupt compression":   {map[string][]byte{"vsock.ko.zst": []byte("text")}, "magic"},
		"a corrupt xz":            {map[string][]byte{"vsock.ko.xz": []byte("\xfd7zXZ\x00junk")}, "vsock"},
		"a module without an end": {map[string][]byte{"vsock.ko.gz": compressed(t, make([]byte, maxModule+1), compressors()["gzip"])}, "more than"},
	} {
		dir := t.TempDir()
		write(t, dir, tt.files)
		tree, err := readModules(dir)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tree.resolve(bootModules); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v; want %q", name, err, tt.want)
		}
	}
}

func TestSignaturesAreCutOffWhereTheKernelDoesNotInsist(t *testing.T) {
	plain := koFile("depends=")
	for name, tt := range map[string]struct {
		config string // empty: none
		keep   bool
	}{
		"optional":                {"CONFIG_MODULE_SIG=y\n", false},
		"forced":                  {"CONFIG_MODULE_SIG=y\nCONFIG_MODULE_SIG_FORCE=y\n", true},
		"locked down":             {"CONFIG_LOCK_DOWN_KERNEL_FORCE_INTEGRITY=y\n", true},
		"configuration not known": {"", true},
	} {
		k := Kernel{ModulesDir: t.TempDir()}
		write(t, k.ModulesDir, map[string][]byte{"vsock.ko": signed(plain)})
		if tt.config != "" {
			k.ConfigPath = filepath.Join(t.TempDir(), "config")
			if err := os.WriteFile(k.ConfigPath, []byte(tt.config), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		set, err := bootSet(k)
		if err != nil || len(set) != 1 {
			t.Fatalf("%s: %v %v", name, set, err)
		}
		want := plain
		if tt.keep {
			want = signed(plain)
		}
		if !bytes.Equal(set[0].content, want) {
			t.Errorf("%s: %d bytes, want %d", name, len(set[0].content), len(want))
		}
	}
	for name, odd := range map[string][]byte{
		"only the magic":             []byte(signatureMagic),
		"a signature of 4 GiB":       append(bytes.Repeat([]byte{0xff}, 64), signatureMagic...),
		"the magic in another place": append([]byte(signatureMagic), 'x'),
		"nothing":                    {},
	} {
		if got := withoutSignature(odd); !bytes.Equal(got, odd) {
			t.Errorf("%s: cut to %q", name, got)
		}
	}
}

// unpackCpio reads an archive with somebody else's reader: path to content, a directory ends in a slash.
func unpackCpio(t *testing.T, path string) (files map[string][]byte, headers map[string]*cpio.Header) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	files, headers = map[string][]byte{}, map[string]*cpio.Header{}
	r := cpio.NewReader(f)
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files, headers
		}
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		name := h.Name
		if parent := filepath.Dir(name); parent != "." && headers[parent] == nil {
			t.Errorf("%s comes before its directory", name)
		}
		if headers[name] != nil {
			t.Errorf("%s is there twice", name)
		}
		files[name], headers[name] = b, h
	}
}

// shell is a program that is linked dynamically, in place of crun.
const shell = "/bin/sh"

func testKernel(t *testing.T) (Kernel, InitramfsOptions) {
	t.Helper()
	dir := t.TempDir()
	write(t, dir, map[string][]byte{"agent": goodKernel(), "vmlinux": goodKernel(), "config": []byte(fullConfig())})
	return Kernel{Vmlinux: filepath.Join(dir, "vmlinux"), Release: testRelease, ModulesDir: bootTree(t),
			ConfigPath: filepath.Join(dir, "config")},
		InitramfsOptions{Agent: filepath.Join(dir, "agent"), Crun: shell, CacheDir: filepath.Join(dir, "cache")}
}

func TestInitramfsHoldsAllThatTheBootNeeds(t *testing.T) {
	k, o := testKernel(t)
	path, err := Initramfs(context.Background(), k, o)
	if err != nil {
		t.Fatal(err)
	}
	files, headers := unpackCpio(t, path)
	if !bytes.Equal(files["init"], goodKernel()) || headers["init"].Mode.Perm() != 0o755 {
		t.Errorf("init: %d bytes, %v", len(files["init"]), headers["init"])
	}
	want, err := os.ReadFile(shell)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(files["bin/crun"], want) || headers["bin/crun"].Mode.Perm() != 0o755 {
		t.Errorf("crun: %d bytes, %v", len(files["bin/crun"]), headers["bin/crun"])
	}
	lines := strings.Fields(string(files["etc/runcvm/modules.load"]))
	if len(lines) != 9 || lines[0] != "/lib/modules/vsock.ko" {
		t.Errorf("modules.load: %q", lines)
	}
	for _, l := range lines {
		if !isELF(files[l[1:]]) {
			t.Errorf("%s is not there, or not unpacked", l)
		}
	}
	libs, err := libraries(shell)
	if err != nil || len(libs) < 2 {
		t.Fatalf("%v %v", libs, err)
	}
	for _, l := range libs {
		if !isELF(files[l.guest[1:]]) {
			t.Errorf("%s is not there", l.guest)
		}
	}
	for _, dir := range []string{"dev", "proc", "sys", "run", "root"} {
		if h := headers[dir]; h == nil || !h.Mode.IsDir() {
			t.Errorf("%s: %v", dir, h)
		}
	}
	if info, err := os.Stat(path); err != nil || info.Size() > MaxInitramfs || info.Mode().Perm() != 0o644 {
		t.Errorf("%v %v", info, err)
	}
}

func TestInitramfsDeviceNodes(t *testing.T) {
	k, o := testKernel(t)
	path, err := Initramfs(context.Background(), k, o)
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for name, numbers := range map[string]string{
		"dev/console": "0000000500000001", "dev/null": "0000000100000003", "dev/urandom": "0000000100000009"} {
		i := bytes.Index(b, []byte(name+"\x00"))
		if i < 110 || string(b[i-110:i-104]) != "070701" || !strings.EqualFold(string(b[i-110+14:i-110+22]), "00002180") ||
			string(b[i-110+78:i-110+94]) != numbers {
			t.Errorf("%s: %q", name, b[max(0, i-110):max(0, i)])
		}
	}
}

func TestInitramfsIsMadeOnceAndAnewWhenItsPartsChange(t *testing.T) {
	k, o := testKernel(t)
	first, err := Initramfs(context.Background(), k, o)
	if err != nil {
		t.Fatal(err)
	}
	before, err := os.Stat(first)
	if err != nil {
		t.Fatal(err)
	}
	second, err := Initramfs(context.Background(), k, o)
	if err != nil || second != first {
		t.Fatalf("%s %v; want %s", second, err, first)
	}
	if after, err := os.Stat(first); err != nil || !os.SameFile(before, after) || after.ModTime() != before.ModTime() {
		t.Error("it was made again")
	}
	content, err := os.ReadFile(first)
	if err != nil {
		t.Fatal(err)
	}
	o.CacheDir = t.TempDir()
	third, err := Initramfs(context.Background(), k, o)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(third); err != nil || !bytes.Equal(b, content) {
		t.Error("equal parts give different archives")
	}
	if err := os.WriteFile(o.Agent, tinyKernel(elf.EM_X86_64, false), 0o755); err != nil {
		t.Fatal(err)
	}
	fourth, err := Initramfs(context.Background(), k, o)
	if err != nil || fourth == third {
		t.Errorf("a new agent: %s %v", fourth, err)
	}
}

func TestInitramfsRefuses(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(t *testing.T, k *Kernel, o *InitramfsOptions)
		want   string
	}{
		"a dynamic agent":     {func(_ *testing.T, _ *Kernel, o *InitramfsOptions) { o.Agent = shell }, "linked dynamically"},
		"no agent":            {func(_ *testing.T, _ *Kernel, o *InitramfsOptions) { o.Agent += "x" }, "no such file"},
		"no crun":             {func(_ *testing.T, _ *Kernel, o *InitramfsOptions) { o.Crun = "/nonexistent" }, "/nonexistent"},
		"a crun that is text": {func(_ *testing.T, k *Kernel, o *InitramfsOptions) { o.Crun = k.ConfigPath }, "crun"},
		"no cache directory":  {func(_ *testing.T, _ *Kernel, o *InitramfsOptions) { o.CacheDir = "" }, "no cache directory"},
		"an agent for arm64": {func(t *testing.T, _ *Kernel, o *InitramfsOptions) {
			if err := os.WriteFile(o.Agent, tinyKernel(elf.EM_AARCH64, true), 0o755); err != nil {
				t.Fatal(err)
			}
		}, "not for x86-64"},
		"more than fits": {func(t *testing.T, _ *Kernel, o *InitramfsOptions) {
			if err := os.Truncate(o.Agent, MaxInitramfs-4096); err != nil {
				t.Fatal(err)
			}
		}, "above the limit"},
	} {
		t.Run(name, func(t *testing.T) {
			k, o := testKernel(t)
			tt.change(t, &k, &o)
			if path, err := Initramfs(context.Background(), k, o); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%s %v; want %q", path, err, tt.want)
			}
			if left, _ := filepath.Glob(filepath.Join(o.CacheDir, "*")); o.CacheDir != "" && len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
			if left, _ := filepath.Glob(filepath.Join(o.CacheDir, ".tmp-*")); o.CacheDir != "" && len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

package kernel

import (
	"context"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/runcvm/runcvm/internal/rootfs/erofs/erofstest"
)

// indexOf makes the index of modules that are given by their .modinfo.
func indexOf(modules map[string][]string, builtin ...string) map[string][]byte {
	x := newModuleIndex(map[string]bool{})
	for _, b := range builtin {
		x.builtin[b] = true
	}
	for name, fields := range modules {
		info, err := readModuleInfo(koFile(fields...))
		if err != nil {
			panic(err)
		}
		x.add(name, "kernel/"+name+".ko", info)
	}
	return x.files()
}

func TestTheIndexHasTheOrderOfLoading(t *testing.T) {
	files := indexOf(map[string][]string{
		"top":        {"depends=left,right-hand", "softdep=pre: crc post: after"},
		"left":       {"depends=base"},
		"right_hand": {"depends=base,builtin-one"},
		"base":       {"depends="},
		"crc_one":    {"depends=base", "alias=crc"},
		"crc_two":    {"depends=gone", "alias=crc"},
		"after":      {"depends=", "softdep=pre: top"},
		"round":      {"depends=about"},
		"about":      {"depends=round"},
		"orphan":     {"depends=gone"},
	}, "builtin_one")
	want := `after ?kernel/base.ko ?kernel/crc_one.ko ?kernel/crc_two.ko ?kernel/left.ko ?kernel/right_hand.ko ?kernel/top.ko kernel/after.ko
base kernel/base.ko
crc_one kernel/base.ko kernel/crc_one.ko
left kernel/base.ko kernel/left.ko
right_hand kernel/base.ko kernel/right_hand.ko
top ?kernel/base.ko ?kernel/crc_one.ko ?kernel/crc_two.ko kernel/left.ko kernel/right_hand.ko kernel/top.ko ?kernel/after.ko
`
	if got := string(files[indexLoad]); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	if got := string(files[indexBuiltin]); got != "builtin_one\n" {
		t.Errorf("built in: %q", got)
	}
}

func TestTheIndexHasAliasesAndDeviceNodes(t *testing.T) {
	files := indexOf(map[string][]string{
		"loop":  {"alias=devname:loop-control", "alias=char-major-10-237", "alias=block-major-7-*"},
		"aes_x": {"alias=crypto-aes", "alias=aes"},
		"aes_y": {"alias=aes", "alias=with space"},
		"tun":   {"alias=char-major-10-200", "alias=devname:net/tun"},
		"odd":   {"alias=devname:odd"},
	})
	for file, want := range map[string]string{
		indexAlias: "aes aes_x\naes aes_y\nchar_major_10_200 tun\nchar_major_10_237 loop\ncrypto_aes aes_x\n" +
			"devname:loop_control loop\ndevname:net/tun tun\ndevname:odd odd\n",
		indexPattern: "block_major_7_* loop\n",
		indexDevname: "loop loop-control c10:237\ntun net/tun c10:200\n",
	} {
		if got := string(files[file]); got != want {
			t.Errorf("%s: got\n%swant\n%s", file, got, want)
		}
	}
}

func TestTheModuleDiskIsMadeOnceAndFoundByItsContent(t *testing.T) {
	dir := bootTree(t)
	write(t, dir, map[string][]byte{"kernel/broken.ko": []byte("no module")})
	cache := t.TempDir()
	first, err := Modules(context.Background(), Kernel{ModulesDir: dir}, cache)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := Modules(context.Background(), Kernel{ModulesDir: dir}, cache); err != nil || again != first {
		t.Errorf("%v, %v; want %v", again, err, first)
	}
	elsewhere, err := Modules(context.Background(), Kernel{ModulesDir: dir}, t.TempDir())
	if err != nil || elsewhere.UUID != first.UUID || elsewhere.Path == first.Path {
		t.Errorf("%v, %v; want the UUID of %v", elsewhere, err, first)
	}
	write(t, dir, map[string][]byte{"modules.new": nil, "kernel/another.ko": koFile("depends=")})
	changed, err := Modules(context.Background(), Kernel{ModulesDir: dir}, cache)
	if err != nil || changed.UUID == first.UUID {
		t.Errorf("%v, %v; want another than %v", changed, err, first)
	}
	if none, err := Modules(context.Background(), Kernel{}, cache); err != nil || none != (ModuleDisk{}) {
		t.Errorf("a kernel without modules has the disk %v, %v", none, err)
	}
	if left, _ := filepath.Glob(filepath.Join(cache, ".tmp-*")); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
}

func TestTheModuleDiskHoldsModulesUnpacked(t *testing.T) {
	disk, err := Modules(context.Background(), Kernel{ModulesDir: bootTree(t)}, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	fsys := erofstest.Open(t, disk.Path)
	var files []string
	err = fs.WalkDir(fsys, ".", func(path string, _ fs.DirEntry, err error) error {
		files = append(files, path)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"kernel/net/vmw_vsock/vmw_vsock_virtio_transport.ko", "kernel/drivers/block/virtio_blk.ko", "updates/overlay.ko",
		indexLoad, indexAlias, indexPattern, indexBuiltin, indexDevname} {
		if !slices.Contains(files, want) {
			t.Errorf("%s is not on the disk: %s", want, strings.Join(files, " "))
		}
	}
	if slices.Contains(files, "kernel/fs/overlayfs/overlay.ko") {
		t.Error("a module that another takes the place of is on the disk")
	}
	module, err := fs.ReadFile(fsys, "kernel/net/vmw_vsock/vmw_vsock_virtio_transport.ko")
	if err != nil || !isELF(module) {
		t.Errorf("%.20q %v", module, err)
	}
}

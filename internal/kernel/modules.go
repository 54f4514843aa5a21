package kernel

import (
	"bufio"
	"bytes"
	"cmp"
	"compress/gzip"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/klauspost/compress/zstd"
	bcjxz "github.com/therootcompany/xz"
)

const (
	// maxModule bounds one module, unpacked, in bytes. The largest that a boot needs has 1 MiB.
	maxModule = 32 << 20
	// maxModuleFiles bounds how many files a modules directory may have; a distribution's has 4,000 to 7,000.
	maxModuleFiles = 50_000
)

// bootModules are the modules that the agent loads, in this order: vsock first, so that the agent listens before the way to it
// exists, and the host's pending connection is answered at once.
//
// What a kernel has built in is left out.
var bootModules = []string{"vsock", "virtio_mmio", "vmw_vsock_virtio_transport", "virtio_blk", "erofs", "ext4", "overlay", "unix"}

// moduleTree is a directory of modules: where each one lies, and which are built into the kernel.
type moduleTree struct {
	dir     string
	files   map[string]string
	builtin map[string]bool
	// aliases is filled by provider.
	aliases map[string]string
}

// moduleName is a module's name as the kernel spells it, from its file's: virtio-rng.ko.xz is virtio_rng. Empty when the file is
// no module.
func moduleName(file string) string {
	base := filepath.Base(file)
	for _, ext := range []string{".xz", ".zst", ".gz"} {
		base = strings.TrimSuffix(base, ext)
	}
	name, ok := strings.CutSuffix(base, ".ko")
	if !ok {
		return ""
	}
	return kernelName(name)
}

// readModules walks dir itself and does not rely on modules.dep: a package that was unpacked but not installed has none.
func readModules(dir string) (*moduleTree, error) {
	t := &moduleTree{dir: dir, files: map[string]string{}, builtin: map[string]bool{}}
	count := 0
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if count++; count > maxModuleFiles {
			return fmt.Errorf("%s has more than %d files", dir, maxModuleFiles)
		}
		if name := moduleName(path); name != "" && d.Type().IsRegular() {
			// The kernel's own tree wins over updates/ and extra/ only where those do not have the module: as depmod does.
			if _, ok := t.files[name]; !ok || !strings.HasPrefix(path, filepath.Join(dir, "kernel")+"/") {
				t.files[name] = path
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("modules: %w", err)
	}
	b, err := readBounded(filepath.Join(dir, "modules.builtin"), maxConfig)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("modules: %w", err)
	}
	for line := range strings.Lines(string(b)) {
		if name := moduleName(strings.TrimSpace(line)); name != "" {
			t.builtin[name] = true
		}
	}
	return t, nil
}

func (t *moduleTree) has(name string) bool { return t.builtin[name] || t.files[name] != "" }

// module is one module to load: its file on the host and its unpacked content.
type module struct {
	name    string
	content []byte
}

// resolve returns the modules of the list, each after those that it depends on. One that has no file is left out:
// whether the kernel has it built in is what the configuration says.
func (t *moduleTree) resolve(names []string) ([]module, error) {
	var (
		out     []module
		visited = map[string]bool{}
		visit   func(name string, path []string) error
	)
	visit = func(name string, path []string) error {
		if slices.Contains(path, name) {
			return fmt.Errorf("modules depend on each other in a circle: %s", strings.Join(append(path, name), " -> "))
		}
		if visited[name] || t.files[name] == "" {
			if !visited[name] && !t.builtin[name] && len(path) > 0 {
				return fmt.Errorf("module %s needs %s, which is not in %s", path[len(path)-1], name, t.dir)
			}
			return nil
		}
		content, err := readModule(t.files[name])
		if err != nil {
			return fmt.Errorf("module %s: %w", name, err)
		}
		info, err := readModuleInfo(content)
		if err != nil {
			return fmt.Errorf("module %s: %w", t.files[name], err)
		}
		deps, soft := info.depends, info.soft
		path = append(slices.Clone(path), name)
		for _, d := range soft {
			if d, err = t.provider(d); err != nil {
				return err
			}
			// A soft dependency may be missing, and may come back to the module itself.
			if t.files[d] != "" && !slices.Contains(path, d) {
				deps = append([]string{d}, deps...)
			}
		}
		for _, d := range deps {
			if err := visit(d, path); err != nil {
				return err
			}
		}
		visited[name] = true
		out = append(out, module{name, content})
		return nil
	}
	for _, n := range names {
		if err := visit(n, nil); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// provider returns the module that a soft dependency means, which may be an alias: libcrc32c asks for crc32c, which
// crc32c_generic is. Only ciphers and checksums are asked for in this way, so only their modules are searched. A dependency that
// nobody provides is returned as it is.
func (t *moduleTree) provider(name string) (string, error) {
	if t.has(name) {
		return name, nil
	}
	if t.aliases == nil {
		t.aliases = map[string]string{}
		for _, m := range slices.Sorted(maps.Keys(t.files)) {
			if !strings.Contains(t.files[m], "/crypto/") {
				continue
			}
			content, err := readModule(t.files[m])
			if err != nil {
				return "", fmt.Errorf("module %s: %w", t.files[m], err)
			}
			info, err := readModuleInfo(content)
			if err != nil {
				return "", fmt.Errorf("module %s: %w", t.files[m], err)
			}
			for _, a := range info.aliases {
				// The generic one runs on every processor; the others refuse to load where theirs is not.
				if a = kernelName(a); t.aliases[a] == "" || strings.HasSuffix(m, "_generic") {
					t.aliases[a] = m
				}
			}
		}
	}
	return cmp.Or(t.aliases[name], name), nil
}

// moduleInfo is what a module says of itself, with names as the kernel spells them; aliases are as they are written.
type moduleInfo struct {
	depends, aliases []string
	// soft and softPost are what softdep= wants loaded before and after it.
	soft, softPost []string
}

// kernelName spells a module's name or alias as the kernel compares it.
func kernelName(s string) string { return strings.ReplaceAll(s, "-", "_") }

// readModuleInfo reads depends=, alias= and softdep= from a module's .modinfo section.
func readModuleInfo(content []byte) (info moduleInfo, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("corrupt ELF file: %v", p)
		}
	}()
	f, err := elf.NewFile(bytes.NewReader(content))
	if err != nil {
		return info, err
	}
	s := f.Section(".modinfo")
	if s == nil {
		return info, errors.New("not a kernel module: no .modinfo")
	}
	b, err := s.Data()
	if err != nil {
		return info, err
	}
	for field := range bytes.SplitSeq(b, []byte{0}) {
		key, value, _ := strings.Cut(string(field), "=")
		switch key {
		case "depends":
			for n := range strings.SplitSeq(value, ",") {
				if n != "" {
					info.depends = append(info.depends, kernelName(n))
				}
			}
		case "alias":
			info.aliases = append(info.aliases, value)
		case "softdep":
			var list *[]string
			for n := range strings.FieldsSeq(value) {
				switch {
				case n == "pre:":
					list = &info.soft
				case n == "post:":
					list = &info.softPost
				case strings.HasSuffix(n, ":"):
					list = nil
				case list != nil:
					*list = append(*list, kernelName(n))
				}
			}
		}
	}
	return info, nil
}

// readModule reads a module's file and unpacks it, so that the guest's kernel need not.
func readModule(path string) (content []byte, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("corrupt: the decoder failed: %v", p)
		}
	}()
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var r io.Reader = bufio.NewReader(f)
	switch filepath.Ext(path) {
	case ".xz":
		r, err = bcjxz.NewReader(r, maxWindow)
	case ".gz":
		r, err = gzip.NewReader(r)
	case ".zst":
		var d *zstd.Decoder
		if d, err = zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow)); err == nil {
			defer d.Close()
			r = d
		}
	}
	if err != nil {
		return nil, err
	}
	return readAllBounded(r, maxModule)
}

func readAllBounded(r io.Reader, limit int64) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("more than %d bytes", limit)
	}
	return b, err
}

func readBounded(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readAllBounded(f, limit)
}

// signatureMagic ends a signed module (the kernel's include/linux/module_signature.h). Before it lies struct module_signature,
// whose last four bytes are the signature's length, big endian; before that the signature.
const (
	signatureMagic      = "~Module signature appended~\n"
	signatureHeaderSize = 12
)

// withoutSignature cuts a module's signature off.
func withoutSignature(content []byte) []byte {
	b, ok := bytes.CutSuffix(content, []byte(signatureMagic))
	if !ok || len(b) < signatureHeaderSize {
		return content
	}
	size := int(binary.BigEndian.Uint32(b[len(b)-4:]))
	if b = b[:len(b)-signatureHeaderSize]; size > len(b) {
		return content
	}
	return b[:len(b)-size]
}

// requiresSignatures says whether a kernel loads no module without its signature.
func (c config) requiresSignatures() bool {
	return c["MODULE_SIG_FORCE"] == "y" || c["LOCK_DOWN_KERNEL_FORCE_INTEGRITY"] == "y" ||
		c["LOCK_DOWN_KERNEL_FORCE_CONFIDENTIALITY"] == "y"
}

// signaturesNeeded says whether the modules of k must keep their signatures. Where the kernel's configuration shows that it does not
// insist on them they are cut off: checking them costs more than all the rest of the loading (under emulation a third of a
// second), and protects nothing, since kernel and modules come from the same host.
func signaturesNeeded(k Kernel) (bool, error) {
	if k.ConfigPath == "" {
		return true, nil
	}
	f, err := os.Open(k.ConfigPath)
	if err != nil {
		return false, err
	}
	defer f.Close()
	conf, err := parseConfig(f)
	if err != nil {
		return false, fmt.Errorf("configuration %s: %w", k.ConfigPath, err)
	}
	return conf.requiresSignatures(), nil
}

// bootSet returns the modules of the boot as they go into the initramfs.
func bootSet(k Kernel) ([]module, error) {
	if k.ModulesDir == "" {
		return nil, nil
	}
	tree, err := readModules(k.ModulesDir)
	if err != nil {
		return nil, err
	}
	set, err := tree.resolve(bootModules)
	if err != nil {
		return nil, err
	}
	keep, err := signaturesNeeded(k)
	if err != nil {
		return nil, err
	}
	if !keep {
		for i := range set {
			set[i].content = withoutSignature(set[i].content)
		}
	}
	return set, nil
}

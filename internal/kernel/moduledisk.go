package kernel

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"hash"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/runcvm/runcvm/internal/rootfs/erofs"
)

// ModuleDisk is a read-only disk with all modules of a kernel. The zero value stands for none.
type ModuleDisk struct {
	// Path is of the disk's file.
	Path string
	// UUID is the file system's, by which the guest finds it, lower case and with dashes.
	UUID string
}

const (
	// moduleDiskVersion changes whenever the content of a disk made from the same modules does.
	moduleDiskVersion = "modules 1"
	entryModules      = "modules.erofs"
)

// Modules returns the disk with the modules of k, which is made where the cache has none. It holds them unpacked, below kernel/
// and the like as they lie on the host, and the index of modindex.go. A kernel without modules has no disk.
func Modules(ctx context.Context, k Kernel, cacheDir string) (ModuleDisk, error) {
	if k.ModulesDir == "" {
		return ModuleDisk{}, nil
	}
	d, err := moduleDisk(ctx, k, cacheDir)
	if err != nil {
		return ModuleDisk{}, fmt.Errorf("module disk of %s: %w", k.ModulesDir, err)
	}
	return d, nil
}

func moduleDisk(ctx context.Context, k Kernel, cacheDir string) (ModuleDisk, error) {
	key, err := identities(moduleDiskVersion, k.ModulesDir, k.ConfigPath)
	if err != nil {
		return ModuleDisk{}, err
	}
	dir, err := cached(ctx, cacheDir, "modules-"+key, func(ctx context.Context, dir string) error {
		return writeSynced(filepath.Join(dir, entryModules), func(f *os.File) error { return buildModuleDisk(ctx, k, f) })
	})
	if err != nil {
		return ModuleDisk{}, err
	}
	path := filepath.Join(dir, entryModules)
	f, err := os.Open(path)
	if err != nil {
		return ModuleDisk{}, err
	}
	defer f.Close()
	info, err := erofs.ReadInfo(f)
	if err != nil {
		return ModuleDisk{}, fmt.Errorf("%s is damaged (%w); remove its directory, it is made anew", path, err)
	}
	return ModuleDisk{Path: path, UUID: info.UUID}, nil
}

// moduleDiskBuilder puts files into a disk and into the hash that its UUID is made of.
type moduleDiskBuilder struct {
	data *erofs.DataWriter
	root *erofs.Inode
	sum  hash.Hash
}

func newDirectory() *erofs.Inode {
	return &erofs.Inode{Mode: erofs.ModeDir | 0o755, Children: map[string]*erofs.Inode{}}
}

// file adds a file; the directories on its path are made.
func (b *moduleDiskBuilder) file(path string, content []byte) error {
	d, err := b.data.Write(bytes.NewReader(content), int64(len(content)))
	if err != nil {
		return err
	}
	dir, name := b.root, path
	for {
		first, rest, more := strings.Cut(name, "/")
		n := dir.Children[first]
		if !more {
			n = &erofs.Inode{Mode: erofs.ModeReg | 0o644, Data: d}
		} else if n == nil {
			n = newDirectory()
		}
		if err := n.Check(first); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		dir.Children[first] = n
		if !more {
			break
		}
		dir, name = n, rest
	}
	fmt.Fprintf(b.sum, "%s %d\n", path, len(content))
	b.sum.Write(content)
	return nil
}

func buildModuleDisk(ctx context.Context, k Kernel, f *os.File) error {
	tree, err := readModules(k.ModulesDir)
	if err != nil {
		return err
	}
	keep, err := signaturesNeeded(k)
	if err != nil {
		return err
	}
	disk := erofs.New(f)
	b := &moduleDiskBuilder{data: disk.DataWriter(), root: newDirectory(), sum: sha256.New()}
	index := newModuleIndex(tree.builtin)
	for _, name := range slices.Sorted(maps.Keys(tree.files)) {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := b.module(ctx, index, tree, name, keep); err != nil {
			return fmt.Errorf("module %s: %w", tree.files[name], err)
		}
	}
	files := index.files()
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if err := b.file(name, files[name]); err != nil {
			return err
		}
	}
	if err := b.data.Flush(); err != nil {
		return err
	}
	var uuid [16]byte
	copy(uuid[:], b.sum.Sum(nil))
	uuid[6], uuid[8] = uuid[6]&0x0f|0x80, uuid[8]&0x3f|0x80 // version 8, RFC 9562, section 5.8
	_, err = disk.Finish(b.root, uuid)
	return err
}

// module adds one module to the disk and to the index. One that cannot be read is left out: the guest may do without it.
func (b *moduleDiskBuilder) module(ctx context.Context, index *moduleIndex, tree *moduleTree, name string, keepSignature bool) error {
	content, err := readModule(tree.files[name])
	var info moduleInfo
	if err == nil {
		info, err = readModuleInfo(content)
	}
	if err != nil {
		slog.WarnContext(ctx, "a module cannot be read, so no guest can load it", "module", tree.files[name], "error", err)
		return nil
	}
	if !keepSignature {
		content = withoutSignature(content)
	}
	rel, err := filepath.Rel(tree.dir, tree.files[name])
	if err != nil {
		return err
	}
	// Its file's name is the module's, whatever it was packed with.
	path := filepath.Join(filepath.Dir(rel), name+".ko")
	if !usable(path) {
		slog.WarnContext(ctx, "a module has a path with spaces, so no guest can load it", "module", tree.files[name])
		return nil
	}
	index.add(name, path, info)
	return b.file(path, content)
}

package kernel

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
)

// cacheVersion changes whenever what a cache entry holds, or what was checked before it was made, does.
const cacheVersion = "kernel 1"

// Files of a cache entry.
const (
	entryKernel  = "kernel.json"
	entryVmlinux = "vmlinux"
	entryConfig  = "config"
)

// prepare unpacks and checks one kernel, or finds it in the cache.
func prepare(ctx context.Context, s source, cacheDir string) (Kernel, error) {
	key, err := identities(cacheVersion, s.image, s.configPath, s.modulesDir)
	if err != nil {
		return Kernel{}, err
	}
	name := "kernel-" + key
	if use(cacheDir, name) {
		if k, ok := loadEntry(filepath.Join(cacheDir, name)); ok {
			return k, nil
		}
	}
	dir, err := cached(ctx, cacheDir, name, func(ctx context.Context, dir string) error { return fillEntry(ctx, s, dir) })
	if err != nil {
		return Kernel{}, err
	}
	if k, ok := loadEntry(dir); ok {
		return k, nil
	}
	// An entry that cannot be read (a file was removed from it, or the modules are gone) is made anew the next time.
	if err := os.RemoveAll(dir); err != nil {
		return Kernel{}, fmt.Errorf("kernel cache: %w", err)
	}
	return Kernel{}, fmt.Errorf("kernel cache: %s was damaged and has been removed; try again", dir)
}

// loadEntry reads a cache entry. Paths that lie in the entry itself are stored relative to it.
func loadEntry(dir string) (Kernel, bool) {
	b, err := os.ReadFile(filepath.Join(dir, entryKernel))
	if err != nil {
		return Kernel{}, false
	}
	var k Kernel
	if err := json.Unmarshal(b, &k); err != nil {
		return Kernel{}, false
	}
	for _, p := range []*string{&k.Vmlinux, &k.ConfigPath} {
		if *p != "" && !filepath.IsAbs(*p) {
			*p = filepath.Join(dir, *p)
		}
	}
	return k, isRegular(k.Vmlinux) && (k.ModulesDir == "" || isDir(k.ModulesDir))
}

// fillEntry does the work: dir gets the unpacked image (unless s.image is one already), the embedded configuration if that is
// the only one, and the description of both, written last.
func fillEntry(ctx context.Context, s source, dir string) error {
	k := Kernel{Release: s.release}
	image, err := os.Open(s.image)
	if err != nil {
		return err
	}
	defer image.Close()
	vmlinux, named, err := unpackImage(ctx, image, dir)
	if err != nil {
		return err
	}
	defer vmlinux.Close()
	if err := checkVmlinux(vmlinux); err != nil {
		return err
	}
	k.Vmlinux = s.image
	if vmlinux != image {
		k.Vmlinux = entryVmlinux
	}
	release, ikconfig, err := scanVmlinux(vmlinux)
	if err != nil {
		return err
	}
	// What the image says is what uname will say, and where the modules are; the file's name is only a name.
	if release == "" {
		release = named
	}
	if release != "" && release != s.release {
		s.release, s.configPath, s.modulesDir = release, "", ""
		s.locate(filepath.Dir(s.image))
	}
	k.Release, k.ModulesDir = s.release, s.modulesDir
	if k.ConfigPath, err = checkConfiguration(ctx, s, ikconfig, dir); err != nil {
		return err
	}
	b, err := json.Marshal(k)
	if err != nil {
		return err
	}
	return writeSynced(filepath.Join(dir, entryKernel), func(f *os.File) error { _, err := f.Write(b); return err })
}

// unpackImage returns the uncompressed image: image itself, or the file that it unpacked into dir. The release is the one that
// the header of a bzImage names.
func unpackImage(ctx context.Context, image *os.File, dir string) (vmlinux *os.File, release string, err error) {
	info, err := image.Stat()
	if err != nil {
		return nil, "", err
	}
	if info.Size() > maxImage {
		return nil, "", fmt.Errorf("%d MiB are too much for a kernel image (limit %d MiB)", info.Size()>>20, maxImage>>20)
	}
	var head [4]byte
	if _, err := image.ReadAt(head[:], 0); err != nil && !errors.Is(err, io.EOF) {
		return nil, "", err
	}
	if isELF(head[:]) {
		return image, "", nil
	}
	b, err := parseBzImage(image, info.Size())
	if err != nil {
		return nil, "", err
	}
	path := filepath.Join(dir, entryVmlinux)
	if err := writeSynced(path, func(f *os.File) error { return unpackPayload(ctx, f, image, b, imageLimits) }); err != nil {
		return nil, "", err
	}
	if vmlinux, err = os.Open(path); err != nil {
		return nil, "", err
	}
	return vmlinux, b.release, nil
}

// checkConfiguration checks the kernel against the list of what the guest needs and returns the configuration's path (relative
// to dir when it was taken out of the image). A kernel without any configuration is used as it is: a boot that fails shows why.
func checkConfiguration(ctx context.Context, s source, ikconfig []byte, dir string) (string, error) {
	var r io.Reader
	path := s.configPath
	switch {
	case path != "":
		f, err := os.Open(path)
		if err != nil {
			return "", err
		}
		defer f.Close()
		r = f
	case ikconfig != nil:
		path = entryConfig
		err := writeSynced(filepath.Join(dir, path), func(f *os.File) error { _, err := f.Write(ikconfig); return err })
		if err != nil {
			return "", err
		}
		r = bytes.NewReader(ikconfig)
	default:
		slog.WarnContext(ctx, "the kernel's configuration was not found, so it is used unchecked", "kernel", s.image)
		return "", nil
	}
	conf, err := parseConfig(r)
	if err != nil {
		return "", fmt.Errorf("configuration %s: %w", path, err)
	}
	var mods *moduleTree
	if s.modulesDir != "" {
		if mods, err = readModules(s.modulesDir); err != nil {
			return "", err
		}
	}
	return path, conf.check(mods)
}

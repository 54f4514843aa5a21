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
	f, err := inspect(ctx, s, dir)
	if err != nil {
		return err
	}
	if f.conf == nil {
		slog.WarnContext(ctx, "the kernel's configuration was not found, so only its modules are checked", "kernel", s.image)
	}
	if err := refusal(f.check(requirements)); err != nil {
		return err
	}
	b, err := json.Marshal(f.Kernel)
	if err != nil {
		return err
	}
	return writeSynced(filepath.Join(dir, entryKernel), func(f *os.File) error { _, err := f.Write(b); return err })
}

// facts are what is known of a kernel that can be booted.
type facts struct {
	Kernel
	conf config      // nil where there is none
	mods *moduleTree // nil where there are none
}

// inspect unpacks an image into dir, unless it is unpacked, and finds out what it has. Paths in dir are relative.
func inspect(ctx context.Context, s source, dir string) (facts, error) {
	var f facts
	image, err := os.Open(s.image)
	if err != nil {
		return f, err
	}
	defer image.Close()
	vmlinux, named, err := unpackImage(ctx, image, dir)
	if err != nil {
		return f, err
	}
	defer vmlinux.Close()
	if err := checkVmlinux(vmlinux); err != nil {
		return f, err
	}
	f.Vmlinux = s.image
	if vmlinux != image {
		f.Vmlinux = entryVmlinux
	}
	release, ikconfig, err := scanVmlinux(vmlinux)
	if err != nil {
		return f, err
	}
	// What the image says is what uname will say, and where the modules are; the file's name is only a name.
	if release == "" {
		release = named
	}
	if release != "" && release != s.release {
		s.release, s.configPath, s.modulesDir = release, "", ""
		s.locate(filepath.Dir(s.image))
	}
	f.Release, f.ModulesDir = s.release, s.modulesDir
	if f.ConfigPath, f.conf, err = readConfiguration(s, ikconfig, dir); err != nil {
		return f, err
	}
	if s.modulesDir != "" {
		f.mods, err = readModules(s.modulesDir)
	}
	return f, err
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

// readConfiguration reads the kernel's configuration and returns its path (relative to dir when it was taken out of the image).
// A kernel may come without any.
func readConfiguration(s source, ikconfig []byte, dir string) (string, config, error) {
	var r io.Reader
	path := s.configPath
	switch {
	case path != "":
		f, err := os.Open(path)
		if err != nil {
			return "", nil, err
		}
		defer f.Close()
		r = f
	case ikconfig != nil:
		path = entryConfig
		err := writeSynced(filepath.Join(dir, path), func(f *os.File) error { _, err := f.Write(ikconfig); return err })
		if err != nil {
			return "", nil, err
		}
		r = bytes.NewReader(ikconfig)
	default:
		return "", nil, nil
	}
	conf, err := parseConfig(r)
	if err != nil {
		return "", nil, fmt.Errorf("configuration %s: %w", path, err)
	}
	return path, conf, nil
}

// Package kernel finds the guest's kernel, unpacks it, checks that it can boot a microVM and run containers, and packs the
// initramfs that goes with it.
//
// Find comes first; the Kernel it returns is what Initramfs takes. Both are safe to call at any time, from any number of
// processes at once: what they make is put into the cache directory under a name made of the identity (device, inode, size,
// times) of what it was made from, and appears there whole or not at all. Nothing is hashed or unpacked a second time.
//
// A kernel image is foreign bytes: whatever it holds, the answer is a kernel that was checked or an error.
package kernel

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Options says where Find looks.
type Options struct {
	// Path is the kernel: the name of an imported one, an ELF vmlinux, a vmlinuz, a Debian package of a kernel image, or a directory
	// that holds boot/vmlinuz-* and lib/modules. Empty: the default that SetDefault chose, or else the newest kernel under Roots.
	Path string
	// Roots are directories that hold boot/vmlinuz-* and lib/modules, in the order in which they are searched.
	Roots []string
	// CacheDir is where unpacked kernels are kept; it is made when it is missing.
	CacheDir string
}

// Roots are where a guest kernel is looked for: the one that set-up unpacks, then the host's own.
var Roots = []string{"/usr/local/lib/runcvm/kernel", "/"}

// Kernel is a kernel that was checked.
type Kernel struct {
	// Vmlinux is the uncompressed ELF image with a PVH entry, for x86-64.
	Vmlinux string
	// Release is what uname -r prints in the guest; empty when the image does not tell.
	Release string
	// ModulesDir is the directory of the kernel's modules (lib/modules/<release>); empty when there is none.
	ModulesDir string
	// ConfigPath is the file with the kernel's configuration; empty when none was found.
	ConfigPath string
}

// ErrNotFound says that there is no kernel at the places that were searched.
var ErrNotFound = errors.New("no guest kernel found")

// source is a kernel before it was unpacked and checked.
type source struct {
	image      string
	release    string
	modulesDir string
	configPath string
}

// Find returns the kernel that o names, unpacked and checked. A kernel that lacks something that the boot or containers need
// is refused with one error that names all of it. Where Path is empty, a kernel that is refused is logged and the next one is
// tried.
func Find(ctx context.Context, o Options) (Kernel, error) {
	if o.CacheDir == "" {
		return Kernel{}, errors.New("find kernel: no cache directory given")
	}
	if o.Path == "" {
		name, err := Default(o.CacheDir)
		if err != nil {
			return Kernel{}, err
		}
		o.Path = name
	}
	if o.Path != "" {
		k, err := findPath(ctx, o.Path, o.CacheDir)
		if err != nil {
			return Kernel{}, fmt.Errorf("kernel %s: %w", o.Path, err)
		}
		return k, nil
	}
	var refused []error
	for _, root := range o.Roots {
		sources, err := searchRoot(root)
		if err != nil {
			return Kernel{}, fmt.Errorf("find kernel: %w", err)
		}
		for _, s := range sources {
			k, err := prepare(ctx, s, o.CacheDir)
			if err == nil {
				return k, nil
			}
			if ctx.Err() != nil {
				return Kernel{}, err
			}
			refused = append(refused, fmt.Errorf("kernel %s: %w", s.image, err))
			slog.WarnContext(ctx, "kernel is not usable, trying the next one", "kernel", s.image, "error", err)
		}
	}
	if len(refused) > 0 {
		return Kernel{}, errors.Join(refused...)
	}
	return Kernel{}, notFound(o.Roots)
}

func notFound(roots []string) error {
	return fmt.Errorf("%w: no boot/vmlinuz-* in %s; install linux-image-cloud-amd64, or name a kernel",
		ErrNotFound, strings.Join(roots, ", "))
}

func findPath(ctx context.Context, ref, cacheDir string) (Kernel, error) {
	path, err := Locate(cacheDir, ref)
	if err != nil {
		return Kernel{}, err
	}
	s, err := sourceAt(path, func() (string, error) { return unpackDeb(ctx, path, cacheDir) })
	if err != nil {
		return Kernel{}, err
	}
	return prepare(ctx, s, cacheDir)
}

// sourceAt finds the kernel at a path. A Debian package is unpacked by unpack, which returns the directory.
func sourceAt(path string, unpack func() (string, error)) (source, error) {
	info, err := os.Stat(path)
	if err != nil {
		return source{}, err
	}
	if !info.IsDir() {
		if !info.Mode().IsRegular() {
			return source{}, errors.New("neither a regular file nor a directory")
		}
		deb, err := isDeb(path)
		if err != nil {
			return source{}, err
		}
		if !deb {
			return sourceOf(path), nil
		}
		if path, err = unpack(); err != nil {
			return source{}, err
		}
	}
	sources, err := searchRoot(path)
	if err != nil {
		return source{}, err
	}
	if len(sources) == 0 {
		return source{}, fmt.Errorf("%w: no boot/vmlinuz-* in %s", ErrNotFound, path)
	}
	return sources[0], nil
}

// searchRoot lists the kernels under root, the best first: Debian's cloud flavour (made for virtual machines) before others, and
// the newest version first. A root that does not exist has none.
func searchRoot(root string) ([]source, error) {
	entries, err := os.ReadDir(filepath.Join(root, "boot"))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var found []source
	for _, e := range entries {
		release, ok := strings.CutPrefix(e.Name(), "vmlinuz-")
		if !ok {
			release, ok = strings.CutPrefix(e.Name(), "vmlinux-")
		}
		if !ok || strings.HasSuffix(release, ".old") || strings.HasPrefix(release, "0-rescue") {
			continue
		}
		s := sourceOf(filepath.Join(root, "boot", e.Name()))
		found = append(found, s)
	}
	slices.SortFunc(found, func(a, b source) int {
		if c, d := isCloud(a.release), isCloud(b.release); c != d {
			if c {
				return -1
			}
			return 1
		}
		return compareVersions(b.release, a.release)
	})
	return found, nil
}

func isCloud(release string) bool { return strings.HasSuffix(release, "-cloud-amd64") }

// sourceOf derives from an image's path where its configuration and its modules lie, as distributions lay them out.
func sourceOf(image string) source {
	s := source{image: image}
	dir, base := filepath.Split(image)
	dir = filepath.Clean(dir)
	if r, ok := strings.CutPrefix(base, "vmlinuz-"); ok {
		s.release = r
	} else if r, ok := strings.CutPrefix(base, "vmlinux-"); ok {
		s.release = r
	}
	if s.release != "" {
		s.locate(dir)
	}
	return s
}

// locate fills in the configuration and the modules of s.release, looking around the directory of the image.
func (s *source) locate(dir string) {
	root := filepath.Dir(dir)
	if s.configPath == "" {
		s.configPath = firstThat(isRegular, filepath.Join(dir, "config-"+s.release))
	}
	if s.modulesDir == "" {
		s.modulesDir = firstThat(isDir,
			filepath.Join(root, "lib/modules", s.release), filepath.Join(root, "usr/lib/modules", s.release),
			filepath.Join(dir, "lib/modules", s.release), filepath.Join(dir, "modules", s.release))
	}
}

func firstThat(ok func(string) bool, paths ...string) string {
	for _, p := range paths {
		if ok(p) {
			return p
		}
	}
	return ""
}

func isRegular(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular()
}

func isDir(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

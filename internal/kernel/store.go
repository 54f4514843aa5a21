package kernel

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"
)

// Imported kernels lie in the cache directory under their names, each a tree with boot/ and lib/modules/, beside what Find and the
// others keep there under names of their own. The link "default" names the one that is used when none is asked for.
const (
	importFile  = "import.json"
	defaultLink = "default"
)

// Imported is a kernel that was imported.
type Imported struct {
	Name    string
	Release string
	// Source is the path that it was imported from.
	Source string
	// Created is when it was imported.
	Created time.Time
	// Size is what its files take, in bytes.
	Size int64
	// Modules says whether it has modules beside those that are built in.
	Modules bool
	// Default says that it is used when none is asked for.
	Default bool `json:"-"`
	// Path is its tree.
	Path string `json:"-"`
}

// ErrUnknown says that no kernel of a name was imported.
var ErrUnknown = errors.New("no such kernel was imported")

// namePattern is compiled when it is first used: what is compiled at the program's start is a part of every container's.
var namePattern = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.+~-]{0,63}$`) })

// CheckName says whether a kernel can have the name, and if not, why.
func CheckName(name string) error {
	if !namePattern().MatchString(name) {
		return fmt.Errorf("name %.80q: only letters, digits and any of _.+~-, beginning with a letter or digit, at most 64", name)
	}
	if name == defaultLink || isEntry(name) {
		return fmt.Errorf("name %q is reserved", name)
	}
	return nil
}

// Import copies the kernel at a path, of any kind that Find takes, under a name; empty: its release. One that lacks what the guest
// needs is refused by the names of the options.
func Import(ctx context.Context, cacheDir, path, name string) (Imported, error) {
	k, err := importKernel(ctx, cacheDir, path, name)
	if err != nil {
		return Imported{}, fmt.Errorf("import kernel %s: %w", path, err)
	}
	return k, nil
}

func importKernel(ctx context.Context, cacheDir, path, name string) (Imported, error) {
	if name != "" {
		if err := CheckName(name); err != nil {
			return Imported{}, err
		}
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return Imported{}, err
	}
	if err := os.MkdirAll(cacheDir, 0o755); err != nil {
		return Imported{}, err
	}
	removeStale(cacheDir)
	tmp, err := os.MkdirTemp(cacheDir, ".tmp-")
	if err != nil {
		return Imported{}, err
	}
	// What cannot be removed now goes with removeStale.
	defer func() { _ = os.RemoveAll(tmp) }()
	s, err := sourceAt(path, func() (string, error) {
		f, err := os.Open(path)
		if err != nil {
			return "", err
		}
		defer f.Close()
		dir := filepath.Join(tmp, "package")
		return dir, errors.Join(os.Mkdir(dir, 0o755), extractDeb(ctx, f, dir))
	})
	if err != nil {
		return Imported{}, err
	}
	k := Imported{Name: name, Source: path, Created: time.Now().UTC()}
	tree := filepath.Join(tmp, "tree")
	if err := k.copyTree(ctx, s, tmp, tree); err != nil {
		return Imported{}, err
	}
	if err := CheckName(k.Name); err != nil {
		return Imported{}, err
	}
	k.Path = filepath.Join(cacheDir, k.Name)
	if err := os.Rename(tree, k.Path); err != nil {
		if isDir(k.Path) {
			return Imported{}, fmt.Errorf("there is a kernel %s already; remove it, or give this one another name with --name", k.Name)
		}
		return Imported{}, err
	}
	return k, nil
}

// copyTree checks the kernel, in a scratch directory of its own, and makes its tree.
func (k *Imported) copyTree(ctx context.Context, s source, tmp, tree string) error {
	scratch := filepath.Join(tmp, "scratch")
	if err := os.Mkdir(scratch, 0o700); err != nil {
		return err
	}
	f, err := inspect(ctx, s, scratch)
	if err != nil {
		return err
	}
	if err := refusal(f.check(requirements)); err != nil {
		return err
	}
	if f.Release == "" {
		return errors.New("the image does not tell its release, so its modules cannot be found")
	}
	k.Release, k.Modules = f.Release, f.ModulesDir != ""
	if k.Name == "" {
		k.Name = k.Release
	}
	kind := "vmlinuz-"
	if f.Vmlinux == s.image {
		kind = "vmlinux-"
	}
	copies := [][2]string{{s.image, filepath.Join("boot", kind+k.Release)}}
	if f.ConfigPath != "" && f.ConfigPath != entryConfig { // one that is in the image stays there
		copies = append(copies, [2]string{f.ConfigPath, filepath.Join("boot", "config-"+k.Release)})
	}
	for _, c := range copies {
		if err := k.copyFile(c[0], filepath.Join(tree, c[1])); err != nil {
			return err
		}
	}
	if k.Modules {
		if err := k.copyModules(ctx, f.ModulesDir, filepath.Join(tree, "lib/modules", k.Release)); err != nil {
			return err
		}
	}
	b, err := json.Marshal(k)
	if err != nil {
		return err
	}
	// The VMM may read it as another user.
	err = writeSynced(filepath.Join(tree, importFile), func(f *os.File) error { _, err := f.Write(b); return err })
	return errors.Join(err, os.Chmod(tree, 0o755))
}

// copyModules copies regular files only: a distribution's links (build, source) lead to headers.
func (k *Imported) copyModules(ctx context.Context, from, to string) error {
	files := 0
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if !d.Type().IsRegular() {
			return nil
		}
		if files++; files > maxModuleFiles {
			return fmt.Errorf("%s has more than %d files", from, maxModuleFiles)
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		return k.copyFile(path, filepath.Join(to, rel))
	})
}

func (k *Imported) copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	n, err := io.Copy(out, in)
	k.Size += n
	return errors.Join(err, out.Close())
}

// List returns the imported kernels by name.
func List(cacheDir string) ([]Imported, error) {
	entries, err := os.ReadDir(cacheDir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	def, err := Default(cacheDir)
	if err != nil && !errors.Is(err, ErrUnknown) {
		return nil, err
	}
	var all []Imported
	for _, e := range entries {
		if !e.IsDir() || CheckName(e.Name()) != nil {
			continue
		}
		b, err := os.ReadFile(filepath.Join(cacheDir, e.Name(), importFile))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		k := Imported{}
		if err == nil {
			err = json.Unmarshal(b, &k)
		}
		if err != nil {
			return nil, fmt.Errorf("imported kernel %s: %w", e.Name(), err)
		}
		k.Name, k.Path, k.Default = e.Name(), filepath.Join(cacheDir, e.Name()), e.Name() == def
		all = append(all, k)
	}
	slices.SortFunc(all, func(a, b Imported) int { return strings.Compare(a.Name, b.Name) })
	return all, nil
}

// exists says whether a kernel of the name was imported.
func exists(cacheDir, name string) bool {
	return CheckName(name) == nil && isRegular(filepath.Join(cacheDir, name, importFile))
}

// Remove removes an imported kernel. Guests that run it go on; the default one is kept until there is another.
func Remove(cacheDir, name string) error {
	if !exists(cacheDir, name) {
		return fmt.Errorf("kernel %.80q: %w", name, ErrUnknown)
	}
	if def, err := Default(cacheDir); err == nil && def == name {
		return fmt.Errorf("kernel %s is the default; choose another first, or none by \"runcvm kernel default --unset\"", name)
	}
	// Out of the way at once: nobody must find half of it.
	tmp, err := os.MkdirTemp(cacheDir, ".tmp-")
	if err != nil {
		return err
	}
	return errors.Join(os.Rename(filepath.Join(cacheDir, name), filepath.Join(tmp, "removed")), os.RemoveAll(tmp))
}

// Default returns the name of the kernel that is used when none is asked for; empty where none was chosen.
func Default(cacheDir string) (string, error) {
	name, err := os.Readlink(filepath.Join(cacheDir, defaultLink))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	if !exists(cacheDir, name) {
		return "", fmt.Errorf("the default kernel %.80q: %w; choose another by \"runcvm kernel default\"", name, ErrUnknown)
	}
	return name, nil
}

// SetDefault chooses the kernel that is used when none is asked for; empty: the newest of the machine again.
func SetDefault(cacheDir, name string) error {
	link := filepath.Join(cacheDir, defaultLink)
	if name == "" {
		if err := os.Remove(link); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	}
	if !exists(cacheDir, name) {
		return fmt.Errorf("kernel %.80q: %w", name, ErrUnknown)
	}
	tmp, err := os.MkdirTemp(cacheDir, ".tmp-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(tmp) }()
	fresh := filepath.Join(tmp, defaultLink)
	return errors.Join(os.Symlink(name, fresh), os.Rename(fresh, link))
}

// Locate returns the path of what ref names: an imported kernel, or else a file or directory.
func Locate(cacheDir, ref string) (string, error) {
	if exists(cacheDir, ref) {
		return filepath.Join(cacheDir, ref), nil
	}
	path, err := filepath.Abs(ref)
	if err != nil {
		return "", err
	}
	if _, err := os.Stat(path); err != nil {
		if !strings.Contains(ref, "/") {
			return "", fmt.Errorf("kernel %.80q: %w, and there is no such file here; \"runcvm kernel list\" has the names", ref, ErrUnknown)
		}
		return "", fmt.Errorf("kernel: %w", err)
	}
	return path, nil
}

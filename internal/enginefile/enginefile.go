// Package enginefile writes this runtime into the configuration of container engines, takes it out again, and reads what stands
// there: Docker's daemon.json and Podman's containers.conf.
//
// All of it is legal at any time. Install and Uninstall only plan; what they return is carried out by Apply. A file is changed
// as text, so that its order, its comments and its form stay, and what was made of it is read again before it takes the old one's
// place.
package enginefile

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"

	"github.com/aymanbagabas/go-udiff"
)

// DefaultName is what the runtime is called where nobody chose.
const DefaultName = "runcvm"

// program is the base name of runcvm's program, by which an entry is known to be its.
const program = "runcvm"

// Runtime is one that an engine's configuration names.
type Runtime struct {
	Name, Path string
	// File is where it stands.
	File string
	// Plain says that the entry is of the form that Install writes, with nothing added.
	Plain bool
	// Default says that the file makes it the engine's default.
	Default bool
}

// Ours says whether the entry is this product's: its program has its name.
func (r Runtime) Ours() bool { return filepath.Base(r.Path) == program }

// Engine is a container engine.
type Engine struct {
	// Name is what people call it on the command line.
	Name string
	// Reload says how the engine takes a changed file.
	Reload string
	// Use is how a container is run then.
	Use string

	// files are where its configuration lies, in the order in which they are read: what comes later counts.
	files func(root string) ([]string, error)
	// own is where Install writes.
	own func(root string) string
	format
}

// format is a file's.
type format interface {
	// read lists a file's runtimes.
	read(text []byte) ([]Runtime, error)
	// set adds one or gives it another path.
	set(text []byte, name, path string) ([]byte, error)
	// remove takes one out; nil says that nothing is left worth a file.
	remove(text []byte, name string) ([]byte, error)
	// empty is a file without anything.
	empty() []byte
}

// Engines are those that are known.
var Engines = []Engine{Docker, Podman}

// Runtimes lists the runtimes in the engine's configuration below root, "" but in tests, in the order in which it reads them.
func (e Engine) Runtimes(root string) ([]Runtime, error) {
	files, err := e.files(root)
	if err != nil {
		return nil, err
	}
	var all []Runtime
	for _, file := range files {
		text, err := read(file)
		if err != nil {
			return nil, err
		}
		found, err := e.parse(file, text)
		if err != nil {
			return nil, err
		}
		all = append(all, found...)
	}
	return all, nil
}

// parse reads a file's runtimes and gives them the file's name.
func (e Engine) parse(file string, text []byte) ([]Runtime, error) {
	found, err := e.read(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	for i := range found {
		found[i].File = file
	}
	return found, nil
}

// Options say what is installed or taken out.
type Options struct {
	// File is another than the engine's own.
	File string
	// Name is the runtime's, DefaultName if it is empty.
	Name string
	// Program is the absolute path of runcvm.
	Program string
	// Root is where the host's files are found: "" but in tests.
	Root string
}

// nameRE is what Docker takes for a runtime's name and what TOML has as a bare key, at once.
var nameRE = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_-]*$`)

func (o *Options) check() error {
	if o.Name == "" {
		o.Name = DefaultName
	}
	switch {
	case !nameRE.MatchString(o.Name):
		return fmt.Errorf("%q is no name for a runtime: letters, digits, _ and - are, the first a letter or a digit", o.Name)
	case slices.Contains(reserved, o.Name):
		return fmt.Errorf("the name %s is the engine's own: choose another by --name", o.Name)
	case !filepath.IsAbs(o.Program):
		return fmt.Errorf("%q is not an absolute path, by which engines find a runtime", o.Program)
	}
	return nil
}

// reserved are names that engines give to runtimes of their own.
var reserved = []string{"runc", "crun", "io"}

// Install plans to write the runtime into the engine's configuration.
func (e Engine) Install(o Options) (*Change, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	file := o.File
	if file == "" {
		file = e.own(o.Root)
	}
	c, r, err := e.find(file, o.Name)
	if err != nil {
		return nil, err
	}
	if r != nil && r.Path == o.Program {
		c.After = c.Before
		return c, nil
	}
	if r != nil && !r.Ours() {
		return nil, fmt.Errorf("%s: the runtime %s is there, and is %s: choose another name by --name, or take it out first", file, o.Name,
			r.Path)
	}
	if c.After, err = e.set(c.Before, o.Name, o.Program); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return c, nil
}

// Uninstall plans to take out what Install wrote, where it is.
func (e Engine) Uninstall(o Options) ([]*Change, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	files := []string{o.File}
	if o.File == "" {
		var err error
		if files, err = e.files(o.Root); err != nil {
			return nil, err
		}
	}
	var changes []*Change
	for _, file := range files {
		c, r, err := e.find(file, o.Name)
		if err != nil {
			return nil, err
		}
		switch {
		case r == nil:
			continue
		case !r.Ours():
			return nil, fmt.Errorf("%s: the runtime %s is %s, not runcvm: it was left as it is", file, r.Name, r.Path)
		case r.Default:
			return nil, fmt.Errorf("%s: the runtime %s is the default, without which the engine does not start: choose "+
				"another default first", file, r.Name)
		case !r.Plain:
			return nil, fmt.Errorf("%s: the runtime %s was changed after it was installed: take it out by hand", file, r.Name)
		}
		if c.After, err = e.remove(c.Before, o.Name); err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		if c.After == nil && c.target != c.File {
			c.After = e.empty() // a link to nothing would be left
		}
		changes = append(changes, c)
	}
	return changes, nil
}

// find opens a configuration, and looks for a runtime in it; nil where it has none of that name.
func (e Engine) find(file, name string) (*Change, *Runtime, error) {
	c, err := open(file)
	if err != nil {
		return nil, nil, err
	}
	have, err := e.parse(file, c.Before)
	if err != nil {
		return nil, nil, fmt.Errorf("%w; correct it first: it was left as it is", err)
	}
	if i := slices.IndexFunc(have, func(r Runtime) bool { return r.Name == name }); i >= 0 {
		return c, &have[i], nil
	}
	return c, nil, nil
}

// Change is a file as it is and as it should be.
type Change struct {
	// File is the one that was asked for.
	File string
	// Before and After are its text; nil where there is no file.
	Before, After []byte

	// target is the file itself, where File is a symbolic link.
	target string
}

// Empty says that there is nothing to do.
func (c *Change) Empty() bool {
	return bytes.Equal(c.Before, c.After) && (c.Before == nil) == (c.After == nil)
}

// Diff shows the change as a unified diff.
func (c *Change) Diff() string {
	from, to := c.File, c.File
	if c.Before == nil {
		from = os.DevNull
	}
	if c.After == nil {
		to = os.DevNull
	}
	return udiff.Unified(from, to, string(c.Before), string(c.After))
}

// open reads a file that may not be there yet.
func open(file string) (*Change, error) {
	c := &Change{File: file, target: file}
	info, err := os.Lstat(file)
	if errors.Is(err, fs.ErrNotExist) {
		return c, nil
	}
	if err != nil {
		return nil, err
	}
	if info.Mode()&fs.ModeSymlink != 0 {
		if c.target, err = filepath.EvalSymlinks(file); err != nil {
			return nil, fmt.Errorf("%s is a symbolic link to something that is not there: %w", file, err)
		}
	}
	c.Before, err = read(c.target)
	return c, err
}

// maxFile bounds a configuration that is read, in bytes.
const maxFile = 4 << 20

// read reads a file; one that is not there is nil.
func read(file string) ([]byte, error) {
	info, err := os.Stat(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxFile {
		return nil, fmt.Errorf("%s is no configuration: no regular file of at most %d MiB", file, maxFile>>20)
	}
	b, err := os.ReadFile(file)
	if err == nil && b == nil {
		b = []byte{}
	}
	return b, err
}

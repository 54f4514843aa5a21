package guest

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Modules on demand. The kernel asks for a module by running a program (kernel.modprobe, proc(5)) in the guest's own namespaces,
// as root, whoever made it ask: that program is the agent's file under another name. Whether a process may make the kernel ask
// was decided by the kernel before. The program finds the module disk at its first use, so a guest that needs no further module
// pays nothing for it.
const (
	// modprobePath is a link to the agent. It is no path that the kernel knows by itself: during the boot, when the kernel asks for
	// what is on its way already, it finds nobody to run.
	modprobePath = "/bin/modprobe"
	// modulesDisk holds the UUID of the module disk. The host's internal/kernel writes it into the initramfs.
	modulesDisk = "/etc/runcvm/modules.disk"
	modulesRoot = "/lib/modules"
	modulesLock = "/run/runcvm-modules.lock"
)

const (
	// moduleDiskTimeout bounds the search for the disk, which is there since before the boot.
	moduleDiskTimeout = 5 * time.Second
	// maxIndex bounds a file of the module index, in bytes; Debian's generic kernel has 1 MiB of aliases.
	maxIndex = 16 << 20
	// maxModuleName bounds what the kernel may ask for, in bytes; MODULE_NAME_LEN is 56, an alias may be longer.
	maxModuleName = 256
)

// errNoModule says that nothing on the disk has the name.
var errNoModule = errors.New("the kernel has no such module")

// takeModprobe makes the agent the program that the kernel runs for a module.
func takeModprobe() error {
	if _, err := os.Stat(modulesDisk); errors.Is(err, fs.ErrNotExist) {
		return nil // a kernel without modules
	}
	err := os.WriteFile("/proc/sys/kernel/modprobe", []byte(modprobePath), 0)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("modules on demand: %w", err)
	}
	return nil
}

// IsModprobe says whether the kernel started this program for a module, in place of the agent's life.
func IsModprobe(args []string) bool { return len(args) > 0 && args[0] == modprobePath }

// Modprobe is the program that the kernel runs, as "modprobe -q -- NAME", and returns its exit code. What it has done is in the
// kernel's log: nobody sees its output.
func Modprobe(args []string) int {
	name := args[len(args)-1]
	if len(args) < 2 || len(name) > maxModuleName {
		return 1
	}
	loaded, err := modprobe(context.Background(), name)
	switch {
	case errors.Is(err, errNoModule):
		kernelLog("<7>", fmt.Sprintf("module %q: %v", name, err)) // the kernel often asks for what need not be there
		return 1
	case err != nil:
		kernelLog("<4>", fmt.Sprintf("module %q: %v", name, err))
		return 1
	case len(loaded) > 0:
		kernelLog("<6>", fmt.Sprintf("module %q: loaded %s", name, strings.Join(loaded, " ")))
	}
	return 0
}

// kernelLog writes a line to the kernel's log; /dev is not needed for it.
func kernelLog(level, text string) {
	if f, err := os.OpenFile("/dev/kmsg", os.O_WRONLY, 0); err == nil {
		// One that cannot be written is lost: there is no other place for it.
		_, _ = fmt.Fprintf(f, "%sruncvm: %.800s\n", level, text)
		f.Close()
	}
}

// modprobe loads what the kernel asks for. No error is also the answer for what the kernel has built in.
func modprobe(ctx context.Context, name string) (loaded []string, err error) {
	dir, err := mountModules(ctx)
	if err != nil {
		return nil, err
	}
	index := moduleIndex{dir}
	modules, err := index.find(name)
	if err != nil {
		return nil, err
	}
	var errs []error
	usable := false
	for _, m := range modules {
		paths, err := index.load(m)
		if err == nil {
			err = loadAll(dir, paths, &loaded)
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		usable = true
	}
	// Of several that offer the same, as the implementations of a cipher, one is enough: another may need another processor.
	if usable {
		return loaded, nil
	}
	return loaded, errors.Join(errs...)
}

// loadAll loads modules in order. Those marked as optional may fail.
func loadAll(dir string, paths []string, loaded *[]string) error {
	for _, p := range paths {
		p, optional := strings.CutPrefix(p, "?")
		if !filepath.IsLocal(p) {
			return fmt.Errorf("module index: %q is no path of the disk", p)
		}
		fresh, err := insertModule(filepath.Join(dir, p))
		if err != nil && !optional {
			return err
		}
		if fresh {
			*loaded = append(*loaded, strings.TrimSuffix(filepath.Base(p), ".ko"))
		}
	}
	return nil
}

// mountModules mounts the module disk at /lib/modules/RELEASE, unless it is, and returns that directory.
func mountModules(ctx context.Context) (string, error) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "", err
	}
	dir := filepath.Join(modulesRoot, unix.ByteSliceToString(u.Release[:]))
	mounted := func() bool { _, err := os.Stat(filepath.Join(dir, indexLoad)); return err == nil }
	if mounted() {
		return dir, nil
	}
	// Any number of these programs may run at once.
	lock, err := os.OpenFile(modulesLock, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return "", err
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return "", fmt.Errorf("lock %s: %w", modulesLock, err)
	}
	if mounted() {
		return dir, nil
	}
	uuid, err := readFileBounded(modulesDisk, 64)
	if err != nil {
		return "", fmt.Errorf("the guest has no module disk: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, moduleDiskTimeout)
	defer cancel()
	device, err := findDisk(ctx, "erofs", strings.TrimSpace(string(uuid)))
	if err != nil {
		return "", fmt.Errorf("the module disk: %w", err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	if err := unix.Mount(device, dir, "erofs", unix.MS_RDONLY|unix.MS_NOATIME|noSuidExecDev, ""); err != nil {
		return "", fmt.Errorf("mount the module disk %s: %w", device, err)
	}
	return dir, nil
}

// The files of a module disk's index; the host's internal/kernel writes and describes them.
const (
	indexLoad    = "modules.load"
	indexAlias   = "modules.alias"
	indexPattern = "modules.pattern"
	indexBuiltin = "modules.builtin"
	indexDevname = "modules.devname"
)

// moduleIndex is the index on the module disk that is mounted at dir.
type moduleIndex struct{ dir string }

func (x moduleIndex) read(file string) ([]byte, error) {
	b, err := readFileBounded(filepath.Join(x.dir, file), maxIndex)
	if err != nil {
		return nil, fmt.Errorf("module index: %w", err)
	}
	return b, nil
}

// load is what must be loaded for a module, in order.
func (x moduleIndex) load(name string) ([]string, error) {
	b, err := x.read(indexLoad)
	if err != nil {
		return nil, err
	}
	lines := linesOf(b, name)
	if len(lines) != 1 {
		return nil, fmt.Errorf("the kernel has no module %s that can be loaded", name)
	}
	return strings.Fields(lines[0]), nil
}

// find returns the modules that a name or an alias stands for; none where the kernel has it built in.
func (x moduleIndex) find(name string) ([]string, error) {
	name = strings.ReplaceAll(name, "-", "_")
	for _, file := range []string{indexLoad, indexBuiltin, indexAlias} {
		b, err := x.read(file)
		if err != nil {
			return nil, err
		}
		switch lines := linesOf(b, name); {
		case len(lines) == 0:
		case file == indexLoad:
			return []string{name}, nil
		case file == indexBuiltin:
			return nil, nil
		default:
			return lines, nil
		}
	}
	b, err := x.read(indexPattern)
	if err != nil {
		return nil, err
	}
	var found []string
	for line := range bytes.Lines(b) {
		pattern, module, _ := strings.Cut(strings.TrimSuffix(string(line), "\n"), " ")
		if matches(pattern, name) {
			found = append(found, module)
		}
	}
	if len(found) == 0 {
		return nil, errNoModule
	}
	return found, nil
}

// linesOf returns what follows the word on each line of a sorted file that begins with it.
func linesOf(b []byte, word string) []string {
	// start is the beginning of the line that the byte at i is in.
	start := func(i int) int { return bytes.LastIndexByte(b[:i], '\n') + 1 }
	line := func(i int) []byte { l, _, _ := bytes.Cut(b[i:], []byte{'\n'}); return l }
	i := sort.Search(len(b), func(i int) bool { return string(firstWord(line(start(i)))) >= word })
	var out []string
	for i = start(i); i < len(b); {
		l := line(i)
		if string(firstWord(l)) != word {
			break
		}
		out = append(out, strings.TrimSpace(string(l[len(word):])))
		i += len(l) + 1
	}
	return out
}

func firstWord(line []byte) []byte { w, _, _ := bytes.Cut(line, []byte{' '}); return w }

// matches compares like fnmatch(3) without flags, for '*', '?' and sets. A '*' stands for any characters, also for '/'.
func matches(pattern, name string) bool {
	for pattern != "" {
		switch c := pattern[0]; c {
		case '*':
			for i := range len(name) + 1 {
				if matches(pattern[1:], name[i:]) {
					return true
				}
			}
			return false
		case '[':
			end := strings.IndexByte(pattern, ']')
			if end < 0 || name == "" || !inSet(pattern[1:end], name[0]) {
				return false
			}
			pattern, name = pattern[end+1:], name[1:]
		default:
			if name == "" || c != '?' && c != name[0] {
				return false
			}
			pattern, name = pattern[1:], name[1:]
		}
	}
	return name == ""
}

// inSet says whether c is in a set like "0-9a-f". The index spells '-' as '_' in there too.
func inSet(set string, c byte) bool {
	for len(set) > 0 {
		if len(set) >= 3 && (set[1] == '-' || set[1] == '_') {
			if c >= set[0] && c <= set[2] {
				return true
			}
			set = set[3:]
			continue
		}
		if c == set[0] {
			return true
		}
		set = set[1:]
	}
	return false
}

// devnames are the device nodes whose opening loads a module.
func (x moduleIndex) devnames() ([]deviceNode, error) {
	b, err := x.read(indexDevname)
	if err != nil {
		return nil, err
	}
	var nodes []deviceNode
	lines := bufio.NewScanner(bytes.NewReader(b))
	for lines.Scan() {
		var n deviceNode
		var module string
		var kind byte
		_, err := fmt.Sscanf(lines.Text(), "%s %s %c%d:%d", &module, &n.path, &kind, &n.major, &n.minor)
		if err != nil && !errors.Is(err, io.EOF) || !filepath.IsLocal(n.path) {
			continue // a line that somebody else understands
		}
		n.path, n.block = filepath.Join("/dev", n.path), kind == 'b'
		nodes = append(nodes, n)
	}
	return nodes, lines.Err()
}

package guest

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// crun finds out late that a command cannot be executed: its own message is then already on the process's standard error, and the
// exit code is nobody's. So the command is looked at first, with the rules of execve(2), and what is wrong with it is said in
// docker's words. Where the rules leave a doubt (another mount, an access list, a capability) crun decides.

const (
	// maxInterpreters is how many interpreters may follow each other, the kernel's own limit (fs/exec.c).
	maxInterpreters = 5
	// headSize is how much of a file the kernel looks at, in bytes (BINPRM_BUF_SIZE).
	headSize = 256
)

// errElsewhere says that a path leads into a mount that only the container will have.
var errElsewhere = errors.New("in another mount")

// checkCommand says why the command cannot be executed; nil where it can, or where that is not known.
func (c *container) checkCommand(p *process) error {
	rootfs, err := unix.Open(c.rootfs(), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(rootfs)
	return (&commandCheck{rootfs, p}).run()
}

type commandCheck struct {
	rootfs int
	p      *process
}

func (k *commandCheck) run() error {
	name := k.p.args[0]
	if strings.Contains(name, "/") {
		path := k.absolute(name)
		if err := k.executable(path); err != nil {
			if missing(err) {
				return k.fault(fmt.Sprintf("exec: %q: stat %s", name, path), err)
			}
			return k.fault(fmt.Sprintf("exec: %q", name), err)
		}
		return k.format(name, path)
	}
	var denied error
	for _, dir := range filepath.SplitList(pathOf(k.p.env)) {
		path := filepath.Join(k.absolute(dir), name)
		switch err := k.executable(path); {
		case err == nil:
			return k.format(name, path)
		case errors.Is(err, errElsewhere):
			return nil
		case !missing(err):
			denied = err
		}
	}
	if denied != nil {
		return k.fault(fmt.Sprintf("exec: %q", name), denied)
	}
	return &startError{fmt.Sprintf("exec: %q: executable file not found in $PATH", name), exitNotFound}
}

func (k *commandCheck) absolute(path string) string {
	if filepath.IsAbs(path) {
		return filepath.Clean(path)
	}
	return filepath.Join("/", k.p.cwd, path)
}

func missing(err error) bool { return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) }

// fault makes the error that the user sees.
func (k *commandCheck) fault(what string, err error) error {
	switch {
	case errors.Is(err, errElsewhere):
		return nil
	case missing(err):
		return &startError{fmt.Sprintf("%s: %v", what, unix.ENOENT), exitNotFound}
	}
	return &startError{fmt.Sprintf("%s: %v", what, err), exitNotExecutable}
}

// open opens a path as the container will see it.
func (k *commandCheck) open(path string, flags uint64) (int, error) {
	fd, err := unix.Openat2(k.rootfs, path, &unix.OpenHow{
		Flags: flags | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS})
	if k.covered(path) {
		if err == nil {
			unix.Close(fd)
		}
		return -1, errElsewhere
	}
	return fd, err
}

// covered says whether a path leads, or may lead by a symbolic link, into something that is mounted over the root.
func (k *commandCheck) covered(path string) bool {
	for _, m := range k.p.mounts {
		m = filepath.Clean(m)
		if path == m || strings.HasPrefix(path, strings.TrimSuffix(m, "/")+"/") {
			return true
		}
	}
	return false
}

// executable says whether path is a file that the container's user may execute.
func (k *commandCheck) executable(path string) error {
	fd, err := k.open(path, unix.O_PATH)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	switch {
	case st.Mode&unix.S_IFMT == unix.S_IFDIR:
		return unix.EISDIR
	case st.Mode&unix.S_IFMT != unix.S_IFREG || !k.mayExecute(&st):
		return unix.EACCES
	}
	return nil
}

// mayExecute follows inode(7). Root needs any of the three bits, given the capability that it has by default; an access list
// shows as the group's bits, so a doubt about it is decided in the file's favour.
func (k *commandCheck) mayExecute(st *unix.Stat_t) bool {
	u := k.p.user
	switch {
	case u.UID == 0:
		return st.Mode&0o111 != 0
	case u.UID == st.Uid:
		return st.Mode&0o100 != 0
	case u.GID == st.Gid || slices.Contains(u.AdditionalGids, st.Gid):
		return st.Mode&0o010 != 0
	}
	return st.Mode&0o011 != 0
}

// format says whether the kernel can execute a file, and whether the interpreters that it names exist.
func (k *commandCheck) format(name, path string) error {
	for range maxInterpreters {
		next, script, err := k.interpreter(path)
		switch {
		case errors.Is(err, errElsewhere):
			return nil
		case err != nil:
			return &startError{fmt.Sprintf("exec: %q: %v", name, err), exitNotExecutable}
		case next == "":
			return nil
		}
		if err := k.executable(next); err != nil {
			return k.fault(fmt.Sprintf("exec: %q: its interpreter %s", name, next), err)
		}
		if !script {
			return nil // a loader is ELF itself
		}
		path = next
	}
	return &startError{fmt.Sprintf("exec: %q: %v", name, unix.ELOOP), exitNotExecutable}
}

// interpreter reads which program the kernel runs for a file: a script's, or an ELF program's loader; empty where it is the file
// itself.
func (k *commandCheck) interpreter(path string) (next string, script bool, err error) {
	fd, err := k.open(path, unix.O_RDONLY|unix.O_NONBLOCK)
	if err != nil {
		return "", false, err
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close()
	head := make([]byte, headSize)
	n, err := f.ReadAt(head, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return "", false, err
	}
	head = head[:n]
	switch {
	case bytes.HasPrefix(head, []byte("#!")):
		line, _, _ := bytes.Cut(head[2:], []byte("\n"))
		fields := bytes.Fields(line)
		if len(fields) == 0 {
			return "", false, unix.ENOEXEC
		}
		return k.absolute(string(fields[0])), true, nil
	case bytes.HasPrefix(head, []byte(elf.ELFMAG)):
		next, err := loader(f, head)
		return next, false, err
	}
	return "", false, unix.ENOEXEC
}

// maxLoader bounds a loader's path, in bytes, as the kernel does (PATH_MAX).
const maxLoader = 4096

// loader reads the loader of an x86-64 program from its program headers (System V ABI, elf(5)). 32-bit programs are left to the
// kernel.
func loader(r io.ReaderAt, head []byte) (string, error) {
	// The kernel takes no more than 64 KiB of program headers, and not none (load_elf_phdrs in fs/binfmt_elf.c).
	const headerSize, entrySize, maxEntries = 64, 56, 65536 / 56
	if len(head) < headerSize {
		return "", unix.ENOEXEC
	}
	machine := elf.Machine(binary.LittleEndian.Uint16(head[18:]))
	switch {
	case head[elf.EI_CLASS] == byte(elf.ELFCLASS32) && machine == elf.EM_386:
		return "", nil
	case head[elf.EI_CLASS] != byte(elf.ELFCLASS64) || machine != elf.EM_X86_64:
		return "", unix.ENOEXEC
	}
	offset := int64(binary.LittleEndian.Uint64(head[32:]))
	size, count := binary.LittleEndian.Uint16(head[54:]), binary.LittleEndian.Uint16(head[56:])
	table := make([]byte, entrySize*min(int(count), maxEntries))
	if size != entrySize || count == 0 || count > maxEntries || offset < 0 {
		return "", unix.ENOEXEC
	}
	if _, err := r.ReadAt(table, offset); errors.Is(err, io.EOF) {
		return "", unix.ENOEXEC
	} else if err != nil {
		return "", err
	}
	for ; len(table) > 0; table = table[entrySize:] {
		if elf.ProgType(binary.LittleEndian.Uint32(table)) != elf.PT_INTERP {
			continue
		}
		at, n := int64(binary.LittleEndian.Uint64(table[8:])), binary.LittleEndian.Uint64(table[32:])
		if n < 2 || n > maxLoader || at < 0 {
			return "", unix.ENOEXEC
		}
		path := make([]byte, n)
		if _, err := r.ReadAt(path, at); err != nil || path[n-1] != 0 {
			return "", unix.ENOEXEC
		}
		return filepath.Clean("/" + string(path[:n-1])), nil
	}
	return "", nil
}

func pathOf(env []string) string {
	for _, e := range env {
		if v, ok := strings.CutPrefix(e, "PATH="); ok {
			return v
		}
	}
	return "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
}

package kernel

import (
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
)

// libraryDirs is where a dynamically linked crun's libraries are looked for, in order: Debian's and Fedora's places, and the
// defaults of ld.so(8).
var libraryDirs = []string{"/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib64", "/usr/lib64", "/lib", "/usr/lib"}

// maxLibraries bounds how many libraries a program may need; Debian's crun needs 12.
const maxLibraries = 64

// program is a program with all that it needs to run: where each file lies on the host, and where it goes in the guest.
type program struct {
	host, guest string
}

// libraries lists the interpreter and the shared libraries of the program at path, recursively. A static program has none.
func libraries(path string) ([]program, error) {
	var (
		out  []program
		seen = map[string]bool{}
		todo = []string{path}
	)
	for len(todo) > 0 {
		file := todo[0]
		todo = todo[1:]
		interp, needed, err := needs(file)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		if interp != "" && file == path && !seen[filepath.Base(interp)] {
			seen[filepath.Base(interp)] = true
			out = append(out, program{interp, interp})
		}
		for _, lib := range needed {
			if seen[lib] {
				continue
			}
			seen[lib] = true
			if len(seen) > maxLibraries {
				return nil, fmt.Errorf("%s: needs more than %d libraries", path, maxLibraries)
			}
			host := firstThat(isRegular, inDirs(lib)...)
			if host == "" {
				return nil, fmt.Errorf("%s: its library %s was not found", file, lib)
			}
			// The program finds it in the guest as it does on the host: ld.so's default directories are compiled in.
			out = append(out, program{host, host})
			todo = append(todo, host)
		}
	}
	return out, nil
}

func inDirs(lib string) []string {
	paths := make([]string, 0, len(libraryDirs))
	for _, d := range libraryDirs {
		paths = append(paths, filepath.Join(d, lib))
	}
	return paths
}

func needs(path string) (interp string, needed []string, err error) {
	f, err := elf.Open(path)
	if err != nil {
		return "", nil, err
	}
	defer func() { _ = f.Close() }()
	if f.Machine != elf.EM_X86_64 {
		return "", nil, fmt.Errorf("a program for %s, not for x86-64", f.Machine)
	}
	if needed, err = f.ImportedLibraries(); err != nil {
		return "", nil, err
	}
	i := slices.IndexFunc(f.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_INTERP })
	if i < 0 {
		return "", needed, nil
	}
	p := f.Progs[i]
	if p.Filesz < 2 || p.Filesz > 4096 {
		return "", nil, errors.New("corrupt ELF file: interpreter")
	}
	b := make([]byte, p.Filesz)
	if _, err := p.ReadAt(b, 0); err != nil {
		return "", nil, err
	}
	interp = filepath.Clean(string(b[:len(b)-1]))
	if _, err := os.Stat(interp); err != nil {
		return "", nil, err
	}
	return interp, needed, nil
}

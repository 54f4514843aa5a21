package install

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	// maxProgram bounds one program, in bytes; Firecracker's has 3 MiB.
	maxProgram = 256 << 20
	// versionTimeout bounds a program that is asked for its version, on a busy host.
	versionTimeout = 30 * time.Second
)

// Least is the first version of Firecracker that is supported.
var Least = [3]int{1, 13, 1}

// programs are what a release has of what is wanted, in the order in which they are installed.
var programs = []string{"jailer", "firecracker"}

// programRE is how they are called in a release and by themselves: firecracker-v1.13.1-x86_64, firecracker. The release has
// debugging symbols under longer names.
var programRE = lazily(`^(firecracker|jailer)(-v[0-9][0-9.]*-x86_64)?$`)

// unpack takes the programs out of a release, or the one that the file is, and leaves them in a directory.
func unpack(path, name, dir string) ([]Program, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	head := make([]byte, 4)
	if _, err := io.ReadFull(f, head); err != nil {
		return nil, fmt.Errorf("it is neither a release's .tgz nor a program: %w", err)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	switch {
	case bytes.Equal(head, []byte("\x7fELF")):
		kind := "firecracker"
		if strings.HasPrefix(name, "jailer") {
			kind = "jailer"
		}
		p, err := write(f, kind, dir)
		return []Program{p}, err
	case bytes.Equal(head[:2], []byte{0x1f, 0x8b}):
		return unpackRelease(f, dir)
	}
	return nil, errors.New("it is neither a release's .tgz nor a program")
}

func unpackRelease(f io.Reader, dir string) ([]Program, error) {
	z, err := gzip.NewReader(f)
	if err != nil {
		return nil, fmt.Errorf("unpack the release: %w", err)
	}
	archive := tar.NewReader(io.LimitReader(z, 4*maxSource))
	var found []Program
	for {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("unpack the release: %w", err)
		}
		m := programRE().FindStringSubmatch(filepath.Base(h.Name))
		if m == nil || h.Typeflag != tar.TypeReg {
			continue
		}
		p, err := write(archive, m[1], dir)
		if err != nil {
			return nil, err
		}
		found = append(found, p)
	}
	slices.SortFunc(found, func(a, b Program) int { return slices.Index(programs, a.Name) - slices.Index(programs, b.Name) })
	if len(found) == 0 || found[len(found)-1].Name != "firecracker" {
		return nil, errors.New("there is no firecracker-vVERSION-x86_64 in the release")
	}
	return found, nil
}

// write writes a program to the directory, for the first time, and to the disk.
func write(r io.Reader, name, dir string) (Program, error) {
	p := Program{Name: name, Path: filepath.Join(dir, name)}
	f, err := os.OpenFile(p.Path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755)
	if err != nil {
		return p, err
	}
	n, err := io.Copy(f, io.LimitReader(r, maxProgram+1))
	if err == nil && n > maxProgram {
		err = fmt.Errorf("%s has more than %d MiB", name, maxProgram>>20)
	}
	return p, errors.Join(err, f.Chmod(0o755), f.Sync(), f.Close())
}

var versionRE = lazily(`^(Firecracker|Jailer) v([0-9]+)\.([0-9]+)\.([0-9]+)`)

// lazily compiles a regular expression when it is first used: what is compiled at the program's start is a part of every
// container's.
func lazily(expression string) func() *regexp.Regexp {
	return sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(expression) })
}

// check asks the program what it is.
func (p *Program) check(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, versionTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, p.Path, "--version")
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s does not run here: %w: %.200q", p.Name, err, out)
	}
	m := versionRE().FindStringSubmatch(string(out))
	if m == nil || !strings.EqualFold(m[1], p.Name) {
		return fmt.Errorf("it is no %s: it says that it is %.100q", p.Name, out)
	}
	p.Version = strings.Join(m[2:], ".")
	if p.Name == "firecracker" && older(m[2:]) {
		return fmt.Errorf("it is version %s, the least that is supported is %d.%d.%d", p.Version, Least[0], Least[1], Least[2])
	}
	return nil
}

func older(version []string) bool {
	for i, least := range Least {
		if n, err := strconv.Atoi(version[i]); err != nil || n != least {
			return err == nil && n < least
		}
	}
	return false
}

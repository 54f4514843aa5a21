package oci

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Exec is a further process of a container. Empty fields are the container's own.
type Exec struct {
	Args []string
	// Env has entries NAME=value, which are added to the container's, or replace them.
	Env []string
	// Cwd is absolute.
	Cwd string
	// User is name|uid[:group|gid].
	User string
	// Privileged gives it every capability.
	Privileged bool
	// Terminal gives it one, of this size.
	Terminal      bool
	Rows, Columns uint16
}

// Check says what cannot be carried or is not legal; all faults are in one error.
func (e Exec) Check() error {
	errs := CheckText(Container{Args: e.Args, Env: e.Env, User: e.User, Cwd: e.Cwd})
	if len(e.Args) == 0 || e.Args[0] == "" {
		errs = append(errs, errors.New("no command to run in the container"))
	}
	if e.Cwd != "" && !path.IsAbs(e.Cwd) {
		errs = append(errs, fmt.Errorf("working directory %q is not an absolute path", e.Cwd))
	}
	return errors.Join(errs...)
}

// ExecProcess builds the specification of a further process. Its user is resolved in the guest.
func ExecProcess(c Container, e Exec) *specs.Process {
	c.Env = merge(c.Env, e.Env)
	c.Terminal = e.Terminal
	c.Cwd = path.Clean(or(e.Cwd, c.Cwd))
	return completed(Spec(c).Process, e)
}

// ExecLike builds the specification of a further process of a container whose own process has this one.
func ExecLike(own *specs.Process, e Exec) *specs.Process {
	p := *own
	p.Terminal, p.ConsoleSize = e.Terminal, nil
	p.Env = merge(p.Env, e.Env)
	if e.Terminal {
		p.Env = withTerm(p.Env)
	}
	p.Cwd = path.Clean(or(e.Cwd, p.Cwd))
	return completed(&p, e)
}

func completed(p *specs.Process, e Exec) *specs.Process {
	p.Args = slices.Clone(e.Args)
	if e.Terminal {
		setConsoleSize(p, e.Rows, e.Columns)
	}
	if e.Privileged {
		p.Capabilities = &specs.LinuxCapabilities{Bounding: capabilities, Effective: capabilities, Permitted: capabilities}
	}
	return p
}

// SetConsoleSize gives the specification's terminal its first size; 0 by 0 leaves it to the guest's kernel.
func SetConsoleSize(s *specs.Spec, rows, columns uint16) { setConsoleSize(s.Process, rows, columns) }

func setConsoleSize(p *specs.Process, rows, columns uint16) {
	if rows != 0 || columns != 0 {
		p.ConsoleSize = &specs.Box{Height: uint(rows), Width: uint(columns)}
	}
}

// withTerm adds Docker's default of TERM for a terminal.
func withTerm(env []string) []string {
	for _, e := range env {
		if strings.HasPrefix(e, "TERM=") {
			return env
		}
	}
	return append(slices.Clone(env), "TERM=xterm")
}

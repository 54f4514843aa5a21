// Probe prints as JSON what a process of a container finds: its identity, its rights, its limits, its files. The same program runs
// under any runtime, so that two can be compared.
//
//	/bin/sh -c 'exec /probe "$(cat /proc/self/status /proc/self/limits)" "$@"' sh ARG...
//
// The first argument is the status and the limits of a process that the shell has started: Go's runtime catches signals and raises
// the limit of open files before main, so a Go program cannot tell what it was given.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// report is a tree of maps, lists of strings, and strings.
type report map[string]any

func main() {
	files := descriptors() // before anything is opened
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "probe: the shell's status is missing")
		os.Exit(2)
	}
	cwd, err := os.Getwd()
	if err != nil {
		cwd = err.Error()
	}
	umask := unix.Umask(0)
	unix.Umask(umask)
	r := report{
		"identity": identity(),
		"status":   status(),
		"signals":  signals(os.Args[1]),
		"limits":   limits(os.Args[1]),
		"mounts":   mounts(),
		"dev":      devices(),
		"paths":    paths(),
		"files":    files,
		"umask":    fmt.Sprintf("%04o", umask),
		"env":      environment(),
		"argv":     os.Args[2:],
		"cwd":      cwd,
		"cgroup":   cgroups(),
		"sysctls":  sysctls(),
		"calls":    calls(),
	}
	e := json.NewEncoder(os.Stdout)
	e.SetIndent("", " ")
	if err := e.Encode(r); err != nil {
		fmt.Fprintln(os.Stderr, "probe:", err)
		os.Exit(1)
	}
}

func identity() report {
	groups, err := unix.Getgroups()
	slices.Sort(groups)
	var u unix.Utsname
	if uerr := unix.Uname(&u); uerr != nil {
		err = errors.Join(err, uerr)
	}
	r := report{
		"pid": fmt.Sprint(os.Getpid()), "ppid": fmt.Sprint(os.Getppid()),
		"uid": fmt.Sprint(unix.Getuid(), unix.Geteuid()), "gid": fmt.Sprint(unix.Getgid(), unix.Getegid()), "groups": fmt.Sprint(groups),
		"hostname": unix.ByteSliceToString(u.Nodename[:]), "domainname": unix.ByteSliceToString(u.Domainname[:]),
		"pgrp":    fmt.Sprint(unix.Getpgrp()),
		"command": command(),
	}
	if sid, serr := unix.Getsid(0); serr == nil {
		r["sid"] = fmt.Sprint(sid)
	}
	if err != nil {
		r["error"] = err.Error()
	}
	return r
}

// command is that of the container's first process, up to this program's first argument.
func command() string {
	words, _, _ := strings.Cut(text("/proc/1/cmdline"), "\n")
	words, _, _ = strings.Cut(words, "\x00Name:")
	return strings.ReplaceAll(words, "\x00", " ")
}

// status is what of /proc/self/status says what the process may do.
func status() report {
	r := report{"oom_score_adj": text("/proc/self/oom_score_adj")}
	for _, line := range fieldsOf("/proc/self/status", "\n") {
		name, value, _ := strings.Cut(line, ":")
		switch name {
		case "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp", "Seccomp_filters":
			r[name] = strings.TrimSpace(value)
		}
	}
	// AppArmor's and SELinux's label, where there is one.
	r["label"] = text("/proc/self/attr/current")
	return r
}

// signals are the dispositions and masks of the shell's child.
func signals(status string) report {
	r := report{}
	for line := range strings.Lines(status) {
		name, value, _ := strings.Cut(line, ":")
		if strings.HasPrefix(name, "Sig") || name == "ShdPnd" {
			r[name] = withoutInternal(strings.TrimSpace(value))
		}
	}
	delete(r, "SigQ")   // a count of the whole machine
	delete(r, "SigCgt") // the child's own
	return r
}

// withoutInternal takes the signals 32 and 33 out of a set: they are the C library's own, and no runtime can set them.
func withoutInternal(set string) string {
	n, err := strconv.ParseUint(set, 16, 64)
	if err != nil {
		return set
	}
	return fmt.Sprintf("%016x", n&^(3<<31))
}

// environment has the variables by name, and their order under "".
func environment() report {
	r := report{}
	for _, e := range os.Environ() {
		name, value, _ := strings.Cut(e, "=")
		r[name] = value
	}
	return r
}

// text is a file's content, or why there is none.
func text(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return "error: " + cause(err)
	}
	return strings.TrimRight(string(b), "\n\x00")
}

func fieldsOf(path, separator string) []string { return strings.Split(text(path), separator) }

// cause is an error without the path that it is about.
func cause(err error) string {
	if errno := unix.Errno(0); errors.As(err, &errno) {
		return unix.ErrnoName(errno)
	}
	return err.Error()
}

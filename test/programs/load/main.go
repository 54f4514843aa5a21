// Load uses memory, processors or processes, for tests of limits.
//
//	load memory MIB       takes so much memory, says so, and gives it back
//	load cpu SECONDS      keeps every processor busy for so long, and prints what its cgroup counted meanwhile, as JSON
//	load processes        starts processes without end that start processes without end
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

func main() {
	if len(os.Args) < 2 {
		fail("what?")
	}
	argument := 0
	if len(os.Args) > 2 {
		var err error
		if argument, err = strconv.Atoi(os.Args[2]); err != nil {
			fail(err)
		}
	}
	switch os.Args[1] {
	case "memory":
		memory(argument)
	case "cpu":
		cpu(time.Duration(argument) * time.Second)
	case "processes":
		processes()
	default:
		fail("what?")
	}
}

func fail(why any) {
	fmt.Fprintln(os.Stderr, "load:", why)
	os.Exit(1)
}

// memory takes pages one after the other, as a program's heap grows.
func memory(mebibytes int) {
	const page = 4096
	b, err := unix.Mmap(-1, 0, mebibytes<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON|unix.MAP_NORESERVE)
	if err != nil {
		fail(err)
	}
	for i := 0; i < len(b); i += page {
		b[i] = 1
	}
	fmt.Println("took", mebibytes)
}

// cpu prints the change of cpu.stat (cgroup v2), and what time has passed, in microseconds.
func cpu(d time.Duration) {
	var stop atomic.Bool
	for range runtime.NumCPU() {
		go func() {
			for !stop.Load() {
			}
		}()
	}
	before, began := cpuStat(), time.Now()
	time.Sleep(d)
	after, elapsed := cpuStat(), time.Since(began)
	stop.Store(true)
	for name := range after {
		after[name] -= before[name]
	}
	after["elapsed_usec"] = elapsed.Microseconds()
	print(after)
}

func cpuStat() map[string]int64 { return numbers("/sys/fs/cgroup/cpu.stat") }

func numbers(path string) map[string]int64 {
	b, err := os.ReadFile(path)
	if err != nil {
		fail(err)
	}
	m := map[string]int64{}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) >= 2 {
			n, _ := strconv.ParseInt(f[1], 10, 64)
			m[strings.TrimSuffix(f[0], ":")] = n
		}
	}
	return m
}

func print(v any) {
	if err := json.NewEncoder(os.Stdout).Encode(v); err != nil {
		fail(err)
	}
}

// processes is a fork bomb. It says "full" when it is refused a process for the first time.
func processes() {
	const pause = 10 * time.Millisecond
	full := false
	for {
		pid, errno := fork()
		if pid == 0 && errno == 0 {
			bomb()
		}
		if errno != 0 {
			if !full {
				fmt.Println("full:", errno)
			}
			full = true
			time.Sleep(pause)
		}
	}
}

func fork() (uintptr, syscall.Errno) {
	pid, _, errno := syscall.RawSyscall6(syscall.SYS_CLONE, uintptr(syscall.SIGCHLD), 0, 0, 0, 0, 0)
	return pid, errno
}

// bomb is what a child does. It has one thread of Go's runtime and no other, so it makes system calls and nothing else.
//
//go:norace
func bomb() {
	pause := syscall.Timespec{Nsec: 10_000_000}
	for {
		_, _, errno := syscall.RawSyscall6(syscall.SYS_CLONE, uintptr(syscall.SIGCHLD), 0, 0, 0, 0, 0)
		if errno != 0 {
			_, _, _ = syscall.RawSyscall(syscall.SYS_NANOSLEEP, uintptr(unsafe.Pointer(&pause)), 0, 0)
		}
	}
}

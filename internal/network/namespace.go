package network

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// In calls f in the network namespace at path (a mounted one, or /proc/PID/ns/net). What f starts as a process is in it as well.
// f runs on a thread of its own: goroutines that it starts are not in the namespace.
func In(path string, f func() error) error {
	ns, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("open the network namespace: %w", err)
	}
	defer ns.Close()
	done := make(chan error, 1)
	go func() {
		// Never unlocked: the thread ends with the goroutine, and nobody else is ever in the namespace.
		runtime.LockOSThread()
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("enter the network namespace %s: %w", path, err)
			return
		}
		done <- f()
	}()
	return <-done
}

const sysctlRoot = "/proc/sys/net/"

func readSysctl(key string) (string, error) {
	b, err := os.ReadFile(sysctlRoot + key)
	return strings.TrimSpace(string(b)), err
}

func writeSysctl(key, value string) error {
	if err := os.WriteFile(sysctlRoot+key, []byte(value), 0); err != nil {
		return fmt.Errorf("set net.%s to %q: %w", strings.ReplaceAll(key, "/", "."), value, err)
	}
	return nil
}

// setSysctl sets a parameter of the namespace until Close.
func (b *Binding) setSysctl(key, value string) error {
	old, err := readSysctl(key)
	if err != nil {
		return fmt.Errorf("read net.%s: %w", strings.ReplaceAll(key, "/", "."), err)
	}
	if err := writeSysctl(key, value); err != nil {
		return err
	}
	b.undo.AddFunc(func() error { return writeSysctl(key, old) })
	return nil
}

// portRange is the namespace's parameter of the ports that its own connections take, and reuse the one that says whether they take
// ports of connections in TIME_WAIT.
const (
	portRange = "ipv4/ip_local_port_range"
	reuse     = "ipv4/tcp_tw_reuse"
)

// reservedRange is the value of portRange with which passToStack is right.
var reservedRange = fmt.Sprintf("%d\t65535", reservedFrom)

// releasePorts undoes reservePorts where a monitor that was killed has not: with what a new namespace has (net/ipv4/af_inet.c and
// net/ipv4/tcp_ipv4.c of Linux).
func releasePorts() error {
	if ports, err := readSysctl(portRange); err != nil || ports != reservedRange {
		return ignoreGone(err)
	}
	return errors.Join(writeSysctl(portRange, "32768 60999"), writeSysctl(reuse, "2"))
}

// reservePorts has the namespace's own stack take the ports of its connections from those that passToStack lets through.
func (b *Binding) reservePorts() error {
	b.Guest.ReservedFrom = reservedFrom
	// A port whose connection lies in TIME_WAIT is taken again: there are few.
	return errors.Join(
		b.setSysctl(portRange, reservedRange),
		b.setSysctl(reuse, "1"))
}

// resolverAddress is where Docker's resolver listens in a container's namespace, as /proc/net/udp writes 127.0.0.11.
const resolverAddress = "0B00007F"

// hasResolver says whether somebody listens for datagrams at 127.0.0.11 of the namespace: Docker's resolver has a port of its own there,
// to which Docker's rules lead port 53.
func hasResolver() (bool, error) {
	b, err := os.ReadFile("/proc/thread-self/net/udp")
	if err != nil {
		return false, fmt.Errorf("look for Docker's resolver: %w", err)
	}
	for line := range strings.Lines(string(b)) {
		if fields := strings.Fields(line); len(fields) > 1 && strings.HasPrefix(fields[1], resolverAddress+":") {
			return true, nil
		}
	}
	return false, nil
}

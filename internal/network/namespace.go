package network

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/vishvananda/netlink"
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
	return onOwnThread(func() error {
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter the network namespace %s: %w", path, err)
		}
		return f()
	})
}

// onOwnThread calls f on a thread that ends with it, so that nobody else is ever in the namespace into which f moves it.
func onOwnThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked
		done <- f()
	}()
	return <-done
}

// NewNamespace makes a network namespace, whose loopback interface is up, and a file at path on which it is mounted, so that it stays until
// RemoveNamespace. After an error nothing is left.
func NewNamespace(path string) (err error) {
	if err := makeFile(path); err != nil {
		return fmt.Errorf("make a network namespace: %w", err)
	}
	if err := onOwnThread(func() error { return mountNewNamespace(path) }); err != nil {
		return errors.Join(fmt.Errorf("make a network namespace: %w", err), RemoveNamespace(path))
	}
	return nil
}

// makeFile makes an empty file, and its directory, which RemoveNamespace of another may remove at that moment.
func makeFile(path string) error {
	const tries = 10
	for n := 1; ; n++ {
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return err
		}
		f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL, 0o600)
		if err == nil {
			return f.Close()
		}
		if !errors.Is(err, fs.ErrNotExist) || n == tries {
			return err
		}
	}
}

// mountNewNamespace moves the calling thread into a new namespace.
func mountNewNamespace(path string) error {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return err
	}
	if err := LoopbackUp(); err != nil {
		return err
	}
	return unix.Mount("/proc/thread-self/ns/net", path, "", unix.MS_BIND, "")
}

// LoopbackUp sets the loopback interface of the calling thread's namespace up: it is down in a new one.
func LoopbackUp() error {
	_, err := loopbackUp()
	return err
}

func loopbackUp() (netlink.Link, error) {
	loopback, err := netlink.LinkByName("lo")
	if err == nil {
		err = netlink.LinkSetUp(loopback)
	}
	if err != nil {
		return nil, fmt.Errorf("set the network namespace's loopback interface up: %w", err)
	}
	return loopback, nil
}

// RemoveNamespace removes what NewNamespace has made; that it is gone already is no error. The namespace itself ends with the last process
// in it.
func RemoveNamespace(path string) error {
	for IsNamespace(path) {
		if err := unix.Unmount(path, unix.MNT_DETACH); err != nil {
			return fmt.Errorf("remove the network namespace %s: %w", path, err)
		}
	}
	// With its name go the mounts on it in all other mount namespaces.
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the network namespace: %w", err)
	}
	_ = os.Remove(filepath.Dir(path)) // with the last one
	return nil
}

// IsNamespace says whether a namespace is mounted there.
func IsNamespace(path string) bool {
	var st unix.Statfs_t
	return unix.Statfs(path, &st) == nil && st.Type == unix.NSFS_MAGIC
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

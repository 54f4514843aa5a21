//go:build e2e

package control

import (
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// limitNumbers are the limits by their numbers (getrlimit(2)).
var limitNumbers = map[string]int{"cpu": 0, "fsize": 1, "data": 2, "stack": 3, "core": 4, "rss": 5, "nproc": 6, "nofile": 7, "memlock": 8,
	"as": 9, "locks": 10, "sigpending": 11, "msgqueue": 12, "nice": 13, "rtprio": 14, "rttime": 15}

// HardLimit is this process's, by the limit's name in lower case; there is none at unix.RLIM_INFINITY.
func HardLimit(t *testing.T, name string) uint64 {
	t.Helper()
	number, ok := limitNumbers[name]
	if !ok {
		t.Fatalf("%s is no limit", name)
	}
	var l unix.Rlimit
	if err := unix.Prlimit(0, number, nil, &l); err != nil {
		t.Fatal(err)
	}
	return l.Max
}

var capabilityNames = strings.Fields(`CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE
	NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN
	SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG
	WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE`)

// CapabilityNumber is a capability's bit, by its name with or without CAP_.
func CapabilityNumber(t *testing.T, name string) int {
	t.Helper()
	n := slices.Index(capabilityNames, strings.TrimPrefix(name, "CAP_"))
	if n < 0 {
		t.Fatalf("%s is no capability", name)
	}
	return n
}

// AllCapabilities are the names of all, with CAP_.
func AllCapabilities() []string {
	var all []string
	for _, name := range capabilityNames {
		all = append(all, "CAP_"+name)
	}
	return all
}

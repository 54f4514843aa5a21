package guest

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/runcvm/runcvm/internal/guestapi"
)

// readStats reads what a cgroup uses, and everything below it. The files are those of the kernel's
// Documentation/admin-guide/cgroup-v2.rst; a controller that the kernel lacks leaves its fields 0.
func readStats(cgroup string) (*guestapi.StatsResponse, error) {
	if _, err := os.Stat(cgroup); errors.Is(err, fs.ErrNotExist) {
		return nil, status.Error(codes.FailedPrecondition, "the container has ended")
	}
	file := func(name string) string { return filepath.Join(cgroup, name) }
	cpu, memory := flatKeyed(file("cpu.stat")), flatKeyed(file("memory.stat"))
	s := &guestapi.StatsResponse{
		BootNanos:           bootNanos(),
		CpuUsec:             cpu["usage_usec"],
		CpuSystemUsec:       cpu["system_usec"],
		CpuThrottledUsec:    cpu["throttled_usec"],
		CpuThrottledPeriods: cpu["nr_throttled"],
		Cpus:                uint32(runtime.NumCPU()),
		MemoryUsed:          number(file("memory.current")),
		MemoryInactiveFile:  memory["inactive_file"],
		MemoryLimit:         number(file("memory.max")),
		Pids:                number(file("pids.current")),
		PidsLimit:           number(file("pids.max")),
		OomKills:            flatKeyed(file("memory.events"))["oom_kill"],
	}
	if total := totalMemory(); s.MemoryLimit == 0 || s.MemoryLimit > total {
		s.MemoryLimit = total
	}
	s.BlockRead, s.BlockWritten = blockBytes(file("io.stat"))
	s.NetworkReceived, s.NetworkSent = networkBytes("/proc/net/dev")
	return s, nil
}

// number reads a file with one number; "max", or what is no number, is 0.
func number(path string) uint64 {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	n, _ := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64)
	return n
}

// flatKeyed reads a file of lines KEY VALUE.
func flatKeyed(path string) map[string]uint64 {
	values := map[string]uint64{}
	b, err := os.ReadFile(path)
	if err != nil {
		return values
	}
	for line := range strings.Lines(string(b)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		if n, err := strconv.ParseUint(value, 10, 64); err == nil {
			values[key] = n
		}
	}
	return values
}

// blockBytes sums up io.stat, which has a line MAJOR:MINOR KEY=VALUE... a device.
func blockBytes(path string) (read, written uint64) {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, 0
	}
	for field := range strings.FieldsSeq(string(b)) {
		key, value, _ := strings.Cut(field, "=")
		n, _ := strconv.ParseUint(value, 10, 64)
		switch key {
		case "rbytes":
			read += n
		case "wbytes":
			written += n
		}
	}
	return read, written
}

// networkBytes sums up /proc/net/dev (proc(5)): after the name, bytes received are the first field, bytes sent the ninth.
func networkBytes(path string) (received, sent uint64) {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, 0
	}
	for line := range strings.Lines(string(b)) {
		name, values, ok := strings.Cut(line, ":")
		fields := strings.Fields(values)
		if !ok || strings.TrimSpace(name) == "lo" || len(fields) < 9 {
			continue
		}
		in, _ := strconv.ParseUint(fields[0], 10, 64)
		out, _ := strconv.ParseUint(fields[8], 10, 64)
		received, sent = received+in, sent+out
	}
	return received, sent
}

// totalMemory is the guest's, in bytes.
func totalMemory() uint64 {
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0
	}
	var kib uint64
	if _, err := fmt.Sscanf(string(b), "MemTotal: %d kB", &kib); err != nil {
		return 0
	}
	return kib << 10
}

package guest

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

const (
	// memoryReserve is what containers without a limit of their own leave to the agent and to the kernel's work for it, in bytes: a
	// further process is started with it, and the disks are unmounted.
	memoryReserve = 24 << 20
	// tasksReserve is how many of the guest's processes and threads they leave: the kernel has some 80 of its own, the agent some 20.
	tasksReserve = 256
)

// limitContainers bounds all containers together, so that one that takes all that it can get does not take the agent's part. It
// is the parent's limit: the container does not see it, and has none of its own, as in Docker.
func limitContainers(parent string) error {
	total, err := os.ReadFile("/proc/sys/kernel/threads-max")
	if err != nil {
		return fmt.Errorf("limit the containers: %w", err)
	}
	info, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return fmt.Errorf("limit the containers: %w", err)
	}
	for file, most := range map[string]int64{
		"pids.max":   reserveTasks(strings.TrimSpace(string(total))),
		"memory.max": availableMemory(info) - memoryReserve,
	} {
		if most <= 0 {
			slog.Warn("the guest is too small to keep a part for its agent", "file", file)
			continue
		}
		err := os.WriteFile(filepath.Join(parent, file), strconv.AppendInt(nil, most, 10), 0)
		if errors.Is(err, os.ErrNotExist) {
			slog.Warn("the kernel has no such limit", "file", file)
		} else if err != nil {
			return fmt.Errorf("limit the containers: %w", err)
		}
	}
	return nil
}

func reserveTasks(threadsMax string) int64 {
	n, err := strconv.ParseInt(threadsMax, 10, 64)
	if err != nil {
		return 0
	}
	return n - tasksReserve
}

// availableMemory is MemAvailable of /proc/meminfo, in bytes; 0 where it is not there.
func availableMemory(info []byte) int64 {
	for line := range bytes.Lines(info) {
		if rest, ok := bytes.CutPrefix(line, []byte("MemAvailable:")); ok {
			n, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(string(rest)), "kB")), 10, 64)
			if err == nil {
				return n << 10
			}
		}
	}
	return 0
}

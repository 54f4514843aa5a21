package guest

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

const (
	// memoryReserve is what containers without a limit of their own leave to the agent and to the kernel's work for it, in bytes: a
	// further process is started with it, and the disks are unmounted.
	memoryReserve = 24 << 20
	// tasksPart is the part of all processes and threads that the kernel allows which containers may have. The kernel allows one for
	// each 128 KiB of memory, and a forked process needs about as much: with half of them a fork bomb is refused processes before
	// it has taken all of the memory.
	tasksPart = 2
)

// limitContainers bounds all containers together, so that one that takes all that it can get does not take the agent's part. It
// is the parent's limit: the container does not see it, and has none of its own, as in Docker.
func limitContainers(parent string) error {
	if err := keepFree(); err != nil {
		return err
	}
	total, err := os.ReadFile("/proc/sys/kernel/threads-max")
	if err != nil {
		return fmt.Errorf("limit the containers: %w", err)
	}
	info, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return fmt.Errorf("limit the containers: %w", err)
	}
	for file, most := range map[string]int64{
		"pids.max":   containerTasks(strings.TrimSpace(string(total))),
		"memory.max": memoryField(info, "MemAvailable:") - memoryReserve,
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

func containerTasks(threadsMax string) int64 {
	n, err := strconv.ParseInt(threadsMax, 10, 64)
	if err != nil {
		return 0
	}
	return n / tasksPart
}

// keepFree takes back what the kernel keeps free for huge pages: in a guest of 1 GiB that is a 20th of its memory. What is left is the
// kernel's own measure without them (init_per_zone_wmark_min of its mm/page_alloc.c).
func keepFree() error {
	info, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return fmt.Errorf("memory to keep free: %w", err)
	}
	total := memoryField(info, "MemTotal:") >> 10
	free := int64(math.Sqrt(float64(16 * total)))
	if free <= 0 {
		return nil
	}
	if err := os.WriteFile("/proc/sys/vm/min_free_kbytes", strconv.AppendInt(nil, free, 10), 0); err != nil {
		return fmt.Errorf("memory to keep free: %w", err)
	}
	return nil
}

// memoryField is a field of /proc/meminfo, in bytes; 0 where it is not there.
func memoryField(info []byte, name string) int64 {
	for line := range bytes.Lines(info) {
		if rest, ok := bytes.CutPrefix(line, []byte(name)); ok {
			n, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(string(rest)), "kB")), 10, 64)
			if err == nil {
				return n << 10
			}
		}
	}
	return 0
}

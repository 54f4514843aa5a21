package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

const (
	// memorySamples are taken every memoryInterval, after memorySettle in which a start's garbage may go.
	memorySamples  = 5
	memoryInterval = time.Second
	memorySettle   = 5 * time.Second
)

// memoryRow measures what an idle sandbox costs on the host beside its VMM.
func memoryRow(ctx context.Context, b *bench) ([]Result, error) {
	var total []float64
	raw := map[string][]float64{}
	for i := range memorySamples {
		wait := memoryInterval
		if i == 0 {
			wait = memorySettle
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		kib, parts, err := pssBesideVMM(b.idle)
		if err != nil {
			return nil, err
		}
		total = append(total, kib/1024)
		for name, v := range parts {
			raw[name+"_kib"] = append(raw[name+"_kib"], v)
		}
	}
	_, err := b.runcvm(ctx, "rm", "-f", idleName)
	return []Result{{
		Name: "idle-memory",
		What: "PSS of all host processes of a container that runs sleep, started by runcvm run -d, except the VMM with its children",
		Unit: "MiB", Goal: new(15.0), Samples: total, Raw: raw,
		Remedy: "most is the monitor's program file (Pss_File), which a smaller program would lower and a second container shares",
	}}, err
}

// pssBesideVMM sums the proportional set sizes of a monitor and its descendants, and of each kind of page, in KiB. The VMM's
// subtree is left out; that there is one is checked, since a monitor without it would be none.
func pssBesideVMM(r record) (total float64, parts map[string]float64, err error) {
	children, err := processTree()
	if err != nil {
		return 0, nil, err
	}
	vmm, err := filepath.EvalSymlinks(r.VMM.Path)
	if err != nil {
		return 0, nil, err
	}
	parts = map[string]float64{}
	found := false
	for queue := []int{r.Pid}; len(queue) > 0; queue = queue[1:] {
		pid := queue[0]
		if exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid)); err == nil && exe == vmm {
			found = true
			continue
		}
		rollup := fmt.Sprintf("/proc/%d/smaps_rollup", pid)
		for _, name := range []string{"Pss", "Pss_Anon", "Pss_File"} {
			kib, err := strconv.ParseFloat(strings.TrimSuffix(field(rollup, name), " kB"), 64)
			if err != nil {
				return 0, nil, fmt.Errorf("%s: %s: %w", rollup, name, err)
			}
			parts[name] += kib
		}
		parts["processes"]++
		queue = append(queue, children[pid]...)
	}
	if !found {
		return 0, nil, fmt.Errorf("process %d has no child %s", r.Pid, vmm)
	}
	return parts["Pss"], parts, nil
}

// processTree is the children of each process.
func processTree() (map[int][]int, error) {
	all, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return nil, err
	}
	children := map[int][]int{}
	for _, path := range all {
		b, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		// The name in parentheses may hold anything (proc_pid_stat(5)); state and parent follow the last one.
		text := string(b)
		fields := strings.Fields(text[strings.LastIndexByte(text, ')')+1:])
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if len(fields) > 1 {
			parent, _ := strconv.Atoi(fields[1])
			children[parent] = append(children[parent], pid)
		}
	}
	return children, nil
}

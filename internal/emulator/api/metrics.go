package api

import (
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"strings"
	"sync"
)

// MetricsFile writes one JSON object a line, with those of Firecracker's metrics that emulation has: how many requests of
// each kind came and failed since the line before. The zero value drops them until [MetricsFile.Open].
type MetricsFile struct {
	mu     sync.Mutex
	file   *os.File
	counts map[string]map[string]uint64 // group -> metric -> count since the last line
}

// Open starts writing to the file or named pipe at path; it can be done once.
func (m *MetricsFile) Open(path string) error {
	f, err := openOutput(path)
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.file != nil {
		return errors.Join(faultf("Reinitialization of metrics not allowed."), f.Close())
	}
	m.file = f
	return nil
}

// Flush writes a line now. Without a file there is nothing to do.
func (m *MetricsFile) Flush() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.file == nil {
		return nil
	}
	line := map[string]any{"utc_timestamp_ms": now().UnixMilli()}
	for group, counts := range m.counts {
		line[group] = counts
	}
	b, err := json.Marshal(line)
	if err != nil {
		return err
	}
	if _, err := m.file.Write(append(b, '\n')); err != nil {
		return err
	}
	m.counts = nil
	return nil
}

// metricNames maps the first part of a path to Firecracker's name of its metric.
var metricNames = map[string]string{
	"": "instance_info", "version": "vmm_version", "actions": "actions", "boot-source": "boot_source",
	"drives": "drive", "network-interfaces": "network", "machine-config": "machine_cfg", "vsock": "vsock",
	"logger": "logger", "metrics": "metrics", "serial": "serial",
}

// count notes a request.
func (m *MetricsFile) count(method, path string, failed bool) {
	first, _, _ := strings.Cut(strings.TrimLeft(path, "/"), "/")
	name, ok := metricNames[first]
	if !ok || method == http.MethodDelete {
		return
	}
	group := strings.ToLower(method) + "_api_requests"
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.counts == nil {
		m.counts = map[string]map[string]uint64{}
	}
	if m.counts[group] == nil {
		m.counts[group] = map[string]uint64{}
	}
	m.counts[group][name+"_count"]++
	if failed {
		m.counts[group][name+"_fails"]++
	}
}

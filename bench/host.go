package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// imageName is what the test image is imported as.
const imageName = "debian:12"

// bench is directories of its own, a container that idles in them, and what is known from it.
type bench struct {
	options
	dir string // for everything that is made
	bin string // RUNCVM_BIN
	vmm string // path of the VMM

	// idle is a container that does nothing until the memory row ends it.
	idle record
	// config is the idle guest's, as its VMM tells it; the baseline boots with the same.
	config vmConfig
	// diskSize is of its writable disk, in bytes.
	diskSize int64
}

// record is what is used of "runcvm ps --format json".
type record struct {
	ID     string  `json:"id"`
	Name   string  `json:"name"`
	Pid    int     `json:"pid"`
	Kernel string  `json:"kernel"`
	VMM    vmmInfo `json:"vmm"`
}

type vmmInfo struct {
	Path     string `json:"path"`
	Version  string `json:"version"`
	Emulated bool   `json:"emulated"`
}

func (v vmmInfo) name() string { return filepath.Base(v.Path) + " (API " + v.Version + ")" }

// vmConfig is the answer of GET /vm/config, which the VMM also takes as its configuration file.
type vmConfig map[string]any

const idleName = "idle"

func newBench(ctx context.Context, o options) (_ *bench, err error) {
	b := &bench{options: o, vmm: os.Getenv("RUNCVM_VMM")}
	layout := os.Getenv("RUNCVM_TEST_IMAGE")
	if b.bin = os.Getenv("RUNCVM_BIN"); b.bin == "" || layout == "" {
		return nil, errors.New("RUNCVM_BIN or RUNCVM_TEST_IMAGE is not set: run this by make bench")
	}
	if b.bin, err = filepath.Abs(b.bin); err != nil {
		return nil, err
	}
	if b.vmm == "" {
		b.vmm = filepath.Join(b.bin, "firecracker-qemu")
	}
	if b.dir, err = os.MkdirTemp("", "runcvm-bench-"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.close())
		}
	}()
	for _, args := range [][]string{
		{"import", layout, imageName},
		// Every cache is full after it.
		{"run", "-d", "--name", idleName, imageName, "sleep", "infinity"},
	} {
		if _, err := b.runcvm(ctx, args...); err != nil {
			return nil, err
		}
	}
	if b.idle, err = b.find(ctx, idleName); err != nil {
		return nil, err
	}
	if b.config, err = b.askConfig(ctx); err != nil {
		return nil, err
	}
	b.diskSize, err = b.measureDisk()
	return b, err
}

// close removes the containers and all that was made.
func (b *bench) close() error {
	// Not the caller's context: it may be what has ended.
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var errs []error
	if ids, err := b.runcvm(ctx, "ps", "-aq"); err == nil {
		for id := range strings.FieldsSeq(ids) {
			_, err := b.runcvm(ctx, "rm", "-f", id)
			errs = append(errs, err)
		}
	}
	return errors.Join(append(errs, os.RemoveAll(b.dir))...)
}

func (b *bench) dataDir() string { return filepath.Join(b.dir, "data") }
func (b *bench) runDir() string  { return filepath.Join(b.dir, "run") }

// command prepares runcvm with nothing of the machine's own configuration.
func (b *bench) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, filepath.Join(b.bin, "runcvm"), args...)
	env := slices.DeleteFunc(os.Environ(), func(e string) bool { return strings.HasPrefix(e, "RUNCVM_") })
	cmd.Env = append(env, "RUNCVM_CONFIG=/dev/null", "RUNCVM_VMM="+b.vmm, "RUNCVM_DATA_DIR="+b.dataDir(), "RUNCVM_RUN_DIR="+b.runDir())
	// By its signal it ends its container too.
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 10 * time.Second
	return cmd
}

// runcvm runs the command and returns its output; a word on its standard error is an error.
func (b *bench) runcvm(ctx context.Context, args ...string) (string, error) {
	cmd := b.command(ctx, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if err == nil && stderr.Len() > 0 {
		err = errors.New("not silent")
	}
	if err != nil {
		return "", fmt.Errorf("runcvm %s: %w: %.4000s", strings.Join(args, " "), err, stderr.String())
	}
	return stdout.String(), nil
}

// find is the record of a running container.
func (b *bench) find(ctx context.Context, name string) (record, error) {
	text, err := b.runcvm(ctx, "ps", "--filter", "name=^"+name+"$", "--format", "{{json .Record}}")
	if err != nil {
		return record{}, err
	}
	if text == "" {
		return record{}, fmt.Errorf("container %s does not run", name)
	}
	var r record
	if err := json.Unmarshal([]byte(text), &r); err != nil {
		return record{}, fmt.Errorf("runcvm ps: %w", err)
	}
	return r, nil
}

// askConfig asks the idle guest's VMM for its configuration.
func (b *bench) askConfig(ctx context.Context) (vmConfig, error) {
	sockets, err := filepath.Glob(filepath.Join(b.runDir(), "*", "api.sock"))
	if err != nil || len(sockets) != 1 {
		return nil, fmt.Errorf("%d VMM sockets in %s instead of one", len(sockets), b.runDir())
	}
	// By the directory's descriptor: the path itself may be longer than a Unix socket's address can be.
	dir, err := os.Open(filepath.Dir(sockets[0]))
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	address := fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), filepath.Base(sockets[0]))
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", address)
		}}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://vmm/vm/config", nil)
	if err != nil {
		return nil, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("ask the VMM for its configuration: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the VMM does not tell its configuration: %s", resp.Status)
	}
	var c vmConfig
	if err := json.NewDecoder(resp.Body).Decode(&c); err != nil {
		return nil, fmt.Errorf("the VMM's configuration: %w", err)
	}
	return c, nil
}

// text is the string at a path of keys.
func (c vmConfig) text(section, key string) (string, error) {
	m, _ := c[section].(map[string]any)
	s, ok := m[key].(string)
	if !ok {
		return "", fmt.Errorf("the VMM's configuration has no %s.%s", section, key)
	}
	return s, nil
}

// drives of the idle guest by their ids.
func (b *bench) drives() (map[string]map[string]any, error) {
	list, _ := b.config["drives"].([]any)
	drives := map[string]map[string]any{}
	for _, d := range list {
		drive, _ := d.(map[string]any)
		id, _ := drive["drive_id"].(string)
		drives[id] = drive
	}
	if len(list) != 3 || drives["image"] == nil || drives["rootfs"] == nil || drives["modules"] == nil {
		return nil, fmt.Errorf("the VMM's configuration has other drives than image, rootfs and modules: %v", list)
	}
	return drives, nil
}

// measureDisk returns the size of the idle container's writable disk in bytes.
func (b *bench) measureDisk() (int64, error) {
	drives, err := b.drives()
	if err != nil {
		return 0, err
	}
	path, _ := drives["rootfs"]["path_on_host"].(string)
	info, err := os.Stat(path)
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

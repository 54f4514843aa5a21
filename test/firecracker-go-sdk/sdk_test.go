// Package sdk boots a guest through Firecracker's official Go SDK, which knows nothing of firecracker-qemu.
//
// It is a module of its own, so that the SDK's many dependencies are not the product's. RUNCVM_VMM names the VMM to test;
// without it firecracker-qemu is built.
package sdk

import (
	"bytes"
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	firecracker "github.com/firecracker-microvm/firecracker-go-sdk"
	"github.com/firecracker-microvm/firecracker-go-sdk/client/models"
	"github.com/sirupsen/logrus"

	"github.com/runcvm/runcvm/test/vmm/tinyguest"
)

func vmm(t *testing.T) string {
	t.Helper()
	if path := os.Getenv("RUNCVM_VMM"); path != "" {
		return path
	}
	path := filepath.Join(t.TempDir(), "firecracker-qemu")
	build := exec.Command("go", "build", "-C", "../..", "-o", path, "./cmd/firecracker-qemu")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build firecracker-qemu: %v\n%s", err, out)
	}
	return path
}

// console collects the guest's output and says when a text has come.
type console struct {
	mu   sync.Mutex
	buf  bytes.Buffer
	text string
	seen chan struct{}
}

func (c *console) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.buf.Write(p)
	if c.text != "" && strings.Contains(c.buf.String(), c.text) {
		c.text = ""
		close(c.seen)
	}
	return len(p), nil
}

func file(t *testing.T, dir, name string, size int64) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestSDKBootsAGuest(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	dir, err := os.MkdirTemp("", "sdk-") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	kernel := filepath.Join(dir, "vmlinux")
	if err := tinyguest.Write(kernel); err != nil {
		t.Fatal(err)
	}
	out := &console{text: strings.TrimSpace(tinyguest.Banner), seen: make(chan struct{})}
	socket := filepath.Join(dir, "api.sock")
	input, keys := io.Pipe()
	cmd := firecracker.VMCommandBuilder{}.WithBin(vmm(t)).WithSocketPath(socket).
		// Its log goes elsewhere: on standard output it comes in the middle of what the guest says.
		AddArgs("--log-path", file(t, dir, "log", 0)).
		WithStdin(input).WithStdout(out).WithStderr(out).Build(ctx)
	logger := logrus.New()
	logger.SetOutput(io.Discard)
	machine, err := firecracker.NewMachine(ctx, firecracker.Config{
		SocketPath:      socket,
		KernelImagePath: kernel,
		KernelArgs:      "console=ttyS0 reboot=k",
		Drives: []models.Drive{{
			DriveID:      firecracker.String("data"),
			PathOnHost:   firecracker.String(file(t, dir, "disk", 1<<20)),
			IsRootDevice: firecracker.Bool(false),
			IsReadOnly:   firecracker.Bool(false),
		}},
		VsockDevices: []firecracker.VsockDevice{{ID: "agent", Path: filepath.Join(dir, "v.sock"), CID: 3}},
		MachineCfg:   models.MachineConfiguration{VcpuCount: firecracker.Int64(1), MemSizeMib: firecracker.Int64(128)},
		VMID:         "sdk-test",
	}, firecracker.WithProcessRunner(cmd), firecracker.WithLogger(logrus.NewEntry(logger)))
	if err != nil {
		t.Fatal(err)
	}
	if err := machine.Start(ctx); err != nil {
		t.Fatalf("start: %v\n%s", err, out.buf.String())
	}
	select {
	case <-out.seen:
	case <-ctx.Done():
		t.Fatalf("the guest did not say %q: %s", tinyguest.Banner, out.buf.String())
	}
	checkState(ctx, t, machine, "Running")
	if err := machine.PauseVM(ctx); err != nil {
		t.Fatal(err)
	}
	checkState(ctx, t, machine, "Paused")
	if err := machine.ResumeVM(ctx); err != nil {
		t.Fatal(err)
	}
	if err := machine.UpdateGuestDrive(ctx, "data", file(t, dir, "larger", 2<<20)); err != nil {
		t.Fatal(err)
	}
	if _, err := keys.Write([]byte("r")); err != nil {
		t.Fatal(err)
	}
	if err := keys.Close(); err != nil {
		t.Fatal(err)
	}
	if err := machine.Wait(ctx); err != nil {
		t.Fatalf("after the guest's reboot: %v", err)
	}
}

func checkState(ctx context.Context, t *testing.T, m *firecracker.Machine, want string) {
	t.Helper()
	info, err := m.DescribeInstanceInfo(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if *info.State != want {
		t.Fatalf("the instance is %q, want %q", *info.State, want)
	}
}

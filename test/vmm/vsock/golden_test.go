//go:build e2e

package vsock

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/runcvm/runcvm/internal/kernel"
	"github.com/runcvm/runcvm/test/harness"
	"github.com/runcvm/runcvm/test/vmm"
	"github.com/runcvm/runcvm/test/vmm/vsock/peer"
)

const (
	// bootTimeout bounds the guest's start, which may be emulation within emulation.
	bootTimeout = 3 * time.Minute
	// greetTimeout is more than the 2 s that a CONNECT which the guest has not answered may stay without an answer.
	greetTimeout = 5 * time.Second
	config       = `{"boot-source":{"kernel_image_path":%q,"initrd_path":%q,"boot_args":"console=ttyS0 reboot=k panic=-1 quiet 8250.nr_uarts=1 ` +
		`i8042.noaux i8042.nomux i8042.dumbkbd random.trust_cpu=on cryptomgr.notests initcall_blacklist=cmos_init"},` +
		`"machine-config":{"vcpu_count":1,"mem_size_mib":256},"drives":[],"vsock":{"guest_cid":3,"uds_path":%q}}`
)

// binary is the VMM under test, and whether it is the one of this repository.
func binary(t *testing.T) (path string, ours bool) {
	t.Helper()
	if path := os.Getenv("RUNCVM_VMM"); path != "" {
		return path, harness.Emulated()
	}
	return filepath.Join(harness.Bin(t), "firecracker-qemu"), true
}

// boot starts a guest and returns what plays scripts against it.
func boot(t *testing.T, binary string) *runner {
	t.Helper()
	dir, err := os.MkdirTemp("", "vsock-") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	// The kernel is $RUNCVM_TEST_KERNEL, or the one that `make setup` unpacked.
	k, err := kernel.Find(t.Context(), kernel.Options{Path: os.Getenv("RUNCVM_TEST_KERNEL"),
		Roots: []string{"/usr/local/lib/runcvm/kernel", "/"}, CacheDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	initrd, err := kernel.Initramfs(t.Context(), k, kernel.InitramfsOptions{Agent: harness.Program(t, "vsockpeer"), CacheDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	uds, file, log := filepath.Join(dir, "v.sock"), filepath.Join(dir, "config.json"), filepath.Join(dir, "log")
	if err := errors.Join(os.WriteFile(file, fmt.Appendf(nil, config, k.Vmlinux, initrd, uds), 0o600), os.WriteFile(log, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	// The table has the limit of connections, which is above the usual limit of descriptors. The VMM inherits what is set here.
	var files syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err != nil {
		t.Fatal(err)
	}
	files.Cur = files.Max
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &files); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	p, err := vmm.StartProcess(context.WithoutCancel(t.Context()), binary, dir, "--config-file", file, "--log-path", log, "--no-seccomp")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Stop(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			said, _ := os.ReadFile(log)
			t.Logf("console:\n%s\nlog:\n%s", p.Output(), said)
		}
	})
	conn := control(t, uds)
	t.Logf("the guest is ready after %v", time.Since(start).Round(time.Millisecond))
	return &runner{host: peer.Host(uds), guest: peer.NewRemote(conn), onConsole: func(ctx context.Context, text string) error {
		ctx, cancel := context.WithTimeout(ctx, peer.Patience)
		defer cancel()
		for !strings.Contains(p.Output(), text) {
			if err := wait(ctx, "0.01"); err != nil {
				return fmt.Errorf("the guest does not say %q: %w", text, err)
			}
		}
		return nil
	}}
}

// control connects to the guest's end as soon as it listens.
func control(t *testing.T, uds string) net.Conn {
	t.Helper()
	attempt := func() (net.Conn, error) {
		conn, err := net.Dial("unix", uds)
		if err != nil {
			return nil, err
		}
		err = conn.SetDeadline(time.Now().Add(greetTimeout))
		if err == nil {
			_, err = fmt.Fprintf(conn, "CONNECT %d\n", peer.ControlPort)
		}
		if err == nil {
			// The guest says nothing before it is spoken to.
			_, err = bufio.NewReader(conn).ReadString('\n')
		}
		if err == nil {
			err = conn.SetDeadline(time.Time{})
		}
		if err != nil {
			return nil, errors.Join(err, conn.Close())
		}
		t.Cleanup(func() { conn.Close() })
		return conn, nil
	}
	for deadline := time.Now().Add(bootTimeout); ; {
		conn, err := attempt()
		if err == nil {
			return conn
		}
		if time.Now().After(deadline) {
			t.Fatalf("the guest does not come up: %v", err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func readJSON(t *testing.T, path string, into any) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	if err := dec.Decode(into); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
}

func recordingName(version string) string { return "v" + version + ".json" }

func TestGolden(t *testing.T) {
	path, ours := binary(t)
	version, err := vmm.Version(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	if os.Getenv("RUNCVM_TEST_RECORD") != "" {
		record(t, boot(t, path), version)
		return
	}
	var golden Recording
	readJSON(t, filepath.Join("testdata", recordingName(version)), &golden)
	if ours {
		var differences []Difference
		readJSON(t, filepath.Join("testdata", "differences.json"), &differences)
		apply(t, &golden, differences)
	}
	if len(golden.Cases) != len(Cases()) {
		t.Errorf("%d cases, %d recorded: record again", len(Cases()), len(golden.Cases))
	}
	r := boot(t, path)
	for _, c := range Cases() {
		t.Run(c.Name, func(t *testing.T) {
			steps, err := r.run(t.Context(), c)
			if err != nil {
				t.Error(err)
			}
			compare(t, steps, golden.Cases[c.Name])
		})
	}
}

// apply puts the differences into the recording; a difference that is none is an error.
func apply(t *testing.T, golden *Recording, differences []Difference) {
	t.Helper()
	for _, d := range differences {
		steps := golden.Cases[d.Case]
		if d.Step >= len(steps) {
			t.Errorf("differences.json: %q has no step %d", d.Case, d.Step)
			continue
		}
		if d.Reason == "" || steps[d.Step].Observed == d.Observed {
			t.Errorf("differences.json: %q step %d has no reason, or is what Firecracker does", d.Case, d.Step)
		}
		steps[d.Step].Observed = d.Observed
	}
}

func compare(t *testing.T, got, want []Step) {
	t.Helper()
	if len(got) != len(want) {
		t.Errorf("%d steps, %d recorded", len(got), len(want))
	}
	for k, g := range got[:min(len(got), len(want))] {
		switch w := want[k]; {
		case g.Line != w.Line:
			t.Fatalf("step %d is %q, recorded was %q: record again", k, g.Line, w.Line)
		case g.Observed != w.Observed:
			t.Errorf("step %d, %s: %s; recorded is: %s", k, g.Line, g.Observed, w.Observed)
		}
	}
}

func record(t *testing.T, r *runner, version string) {
	fresh := Recording{Version: version, Cases: map[string][]Step{}}
	for _, c := range Cases() {
		if _, ok := fresh.Cases[c.Name]; ok {
			t.Fatalf("two cases have the name %q", c.Name)
		}
		steps, err := r.run(t.Context(), c)
		if err != nil {
			t.Errorf("%s: %v after %+v", c.Name, err, steps)
		}
		fresh.Cases[c.Name] = steps
	}
	dir := "testdata"
	if d := os.Getenv("RUNCVM_ARTIFACTS"); d != "" {
		dir = filepath.Join(d, "vsock") // beside the recording of test/vmm
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(dir, recordingName(version))
	if err := vmm.WriteRecording(path, fresh); err != nil {
		t.Fatal(err)
	}
	t.Logf("recorded %d cases in %s", len(fresh.Cases), path)
}

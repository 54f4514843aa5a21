package rootfs

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// usedDisk makes a disk and lets debugfs do to it what a guest might.
func usedDisk(t *testing.T, commands ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "rootfs.ext4")
	o := writable("first")
	o.Size = 64 << 20
	if err := CreateWritable(t.Context(), path, o); err != nil {
		t.Fatal(err)
	}
	for _, c := range commands {
		if out, err := exec.Command("debugfs", "-w", "-R", c, path).CombinedOutput(); err != nil {
			t.Fatalf("debugfs %s: %v: %s", c, err, out)
		}
	}
	return path
}

func TestAUsedDiskGetsTheCommandAfresh(t *testing.T) {
	for name, commands := range map[string][]string{
		"as it was":                  nil,
		"with the container's files": {"mkdir /upper", "mkdir /upper/data"},
		"without stage directory":    {"rm /.runcvm/entrypoint", "rm /.runcvm/config.json", "rmdir /.runcvm"},
		"the command is a link":      {"rm /.runcvm/entrypoint", "symlink /.runcvm/entrypoint /etc/passwd"},
	} {
		t.Run(name, func(t *testing.T) {
			path := usedDisk(t, commands...)
			args := []string{"second", "a\nb \"quoted\"", strings.Repeat("x", 100<<10)}
			o := writable(args...)
			o.Config = []byte(`{"new":true}`)
			r, err := RestageWritable(t.Context(), path, o)
			if err != nil {
				t.Fatal(err)
			}
			if r.UUID != o.UUID {
				t.Errorf("UUID %s, want %s", r.UUID, o.UUID)
			}
			var got []string
			if err := json.Unmarshal([]byte(debugfs(t, path, "cat /.runcvm/entrypoint")), &got); err != nil || !slices.Equal(got, args) {
				t.Errorf("entrypoint %.100q: %v", got, err)
			}
			if got := debugfs(t, path, "cat /.runcvm/config.json"); got != `{"new":true}` {
				t.Errorf("config.json is %q", got)
			}
			if out, err := exec.Command("e2fsck", "-fn", path).CombinedOutput(); err != nil {
				t.Errorf("e2fsck: %v: %s", err, out)
			}
			info, err := os.Stat(path)
			if err != nil || info.Sys().(*syscall.Stat_t).Uid != uint32(os.Getuid()) || info.Size() != 64<<20 {
				t.Errorf("the file: %+v, %v", info, err)
			}
			if s := debugfs(t, path, "stat /.runcvm/entrypoint"); !strings.Contains(s, "Mode:  0600") || !strings.Contains(s, "User:     0") {
				t.Errorf("the command's inode: %s", s)
			}
		})
	}
}

func TestADamagedDiskIsRefusedWithTheReason(t *testing.T) {
	path := usedDisk(t)
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	// The group descriptors and all inodes: more than -p mends.
	if _, err := f.WriteAt([]byte(strings.Repeat("\xa5", 1<<20)), 4096); err != nil {
		t.Fatal(err)
	}
	_, err = RestageWritable(t.Context(), path, writable("sh"))
	if err == nil || !strings.Contains(err.Error(), "damaged") || !strings.Contains(err.Error(), "e2fsck -f") {
		t.Errorf("got %v", err)
	}
	if err := os.Truncate(path, 512); err != nil {
		t.Fatal(err)
	}
	if _, err = RestageWritable(t.Context(), path, writable("sh")); err == nil {
		t.Error("half a superblock was taken")
	}
}

func TestAStageThatCannotBeWrittenIsAnError(t *testing.T) {
	// A file in the directory's place, as a hostile guest may leave it.
	path := usedDisk(t, "rm /.runcvm/entrypoint", "rm /.runcvm/config.json", "rmdir /.runcvm", "symlink /.runcvm /upper/nowhere")
	if _, err := RestageWritable(t.Context(), path, writable("sh")); err == nil || !strings.Contains(err.Error(), "no directory") {
		t.Errorf("got %v", err)
	}
}

func TestAProgramThatLeavesAChildHoldsNobodyUp(t *testing.T) {
	f, err := os.Open(usedDisk(t))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	// The child ends with the test; until then it holds the output.
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	defer r.Close()
	const leave = "cat <&4 >/dev/null & exit 0"
	if _, err := sandboxed(t.Context(), f, []*os.File{r}, "/bin/sh", "-c", leave); !errors.Is(err, exec.ErrWaitDelay) {
		t.Errorf("got %v", err)
	}
}

// A program on a guest's disk is somebody else, without a way back.
func TestTheProgramsHaveNoPrivileges(t *testing.T) {
	path := usedDisk(t)
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r, err := sandboxed(t.Context(), f, nil, "/bin/cat", "/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	status := string(r.out)
	for _, want := range []string{
		"NoNewPrivs:\t1", "CapEff:\t0000000000000000", "CapPrm:\t0000000000000000", "Groups:\t \n", "Uid:\t2130706432\t2130706432",
	} {
		if !strings.Contains(status, want) {
			t.Errorf("%q is missing in %s", want, status)
		}
	}
	if r, err := sandboxed(t.Context(), f, nil, "/bin/cat", diskPath); err == nil && r.code == 0 {
		t.Error("a disk that was not lent can be read")
	}
	if self, err := os.ReadFile("/proc/thread-self/status"); err != nil || strings.Contains(string(self), "NoNewPrivs:\t1") {
		t.Errorf("the caller has lost its privileges: %v", err)
	}
}

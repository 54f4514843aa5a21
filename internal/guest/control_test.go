package guest

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/runcvm/runcvm/internal/guestapi"
)

func TestACgroupsFilesAreRead(t *testing.T) {
	dir := t.TempDir()
	for name, content := range map[string]string{
		"cpu.stat":       "usage_usec 1500\nuser_usec 1000\nsystem_usec 500\nnr_periods 9\nnr_throttled 3\nthrottled_usec 77\n",
		"memory.current": "1000\n", "memory.max": "max\n", "memory.stat": "anon 5\ninactive_file 400\n",
		"memory.events": "low 0\noom 2\noom_kill 1\n", "pids.current": "7\n", "pids.max": "60\n",
		"io.stat": "254:0 rbytes=100 wbytes=200 rios=1 wios=2 dbytes=0 dios=0\n254:16 rbytes=1 wbytes=2 rios=0\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s, err := readStats(dir)
	if err != nil {
		t.Fatal(err)
	}
	if s.CpuUsec != 1500 || s.CpuSystemUsec != 500 || s.CpuThrottledPeriods != 3 || s.CpuThrottledUsec != 77 || s.MemoryUsed != 1000 ||
		s.MemoryInactiveFile != 400 || s.MemoryLimit != totalMemory() || s.Pids != 7 || s.PidsLimit != 60 || s.BlockRead != 101 ||
		s.BlockWritten != 202 || s.OomKills != 1 || s.Cpus == 0 || s.BootNanos <= 0 {
		t.Errorf("got %+v", s)
	}
	if _, err := readStats(filepath.Join(dir, "gone")); err == nil {
		t.Error("a cgroup that is gone has numbers")
	}
}

func TestAProcessIsReadFromProc(t *testing.T) {
	booted := time.Now().Add(-time.Duration(bootNanos()))
	p, parent, err := readProcess("/proc/self", booted)
	if err != nil {
		t.Fatal(err)
	}
	if parent != os.Getppid() || p.Uid != uint32(os.Geteuid()) || p.Threads < 1 || p.Args[0] != os.Args[0] && len(os.Args[0]) < maxArgs || p.State == "" {
		t.Errorf("got %+v, parent %d", p, parent)
	}
	if age := time.Since(time.Unix(0, p.StartedUnixNanos)); age < 0 || age > time.Hour {
		t.Errorf("it is %s old", age)
	}
}

func TestANameMayHoldAnything(t *testing.T) {
	rest := "S 1 2 3 34817 5 0 0 0 0 0 150 50 0 0 20 -5 3 0 100 4096 2 " + strings.Repeat("0 ", 28)
	p, parent, err := parseStat("42 (a) (b) 7) "+rest, time.Unix(1000, 0))
	if err != nil {
		t.Fatal(err)
	}
	if p.Name != "a) (b) 7" || p.State != "S" || parent != 1 || p.Tty != "pts/1" || p.CpuNanos != 2e9 || p.Nice != -5 || p.Threads != 3 ||
		p.StartedUnixNanos != 1001e9 || p.VirtualMemory != 4096 || p.ResidentMemory != uint64(2*os.Getpagesize()) {
		t.Errorf("got %+v", p)
	}
	for _, text := range []string{"", "1 x S 0", "1 ) (", "1 (x) S 1 2"} {
		if _, _, err := parseStat(text, time.Now()); err == nil {
			t.Errorf("%q was taken", text)
		}
	}
	if err := parseStatus(p, "Uid:\t0\t1000\t0\t0\nGid:\t5\t6\t7\t8\nNSpid:\t900\t12\t1\nNSpgid:\t900\t12\t1\nNSsid:\t900\t0\t0\n"); err != nil {
		t.Fatal(err)
	}
	if p.Uid != 1000 || p.Gid != 6 || p.Pid != 12 || p.Pgid != 12 || p.Sid != 0 {
		t.Errorf("got %+v", p)
	}
}

func TestOwnersAreNamedByTheContainersFiles(t *testing.T) {
	c := newContainer("c")
	c.dir = t.TempDir()
	if err := os.MkdirAll(filepath.Join(c.rootfs(), "etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	passwd := "root:x:0:0::/:/bin/sh\nroot2:x:0:0::/:/bin/sh\n" + strings.Repeat("n", 100) + ":x:7:7::/:\nnonsense\n"
	if err := os.WriteFile(filepath.Join(c.rootfs(), "etc/passwd"), []byte(passwd), 0o600); err != nil {
		t.Fatal(err)
	}
	processes := []*guestapi.Process{{Uid: 0}, {Uid: 7}, {Uid: 8}}
	c.nameOwners(processes)
	for i, want := range []string{"root", "", ""} {
		if processes[i].User != want {
			t.Errorf("user %d is %q, want %q", processes[i].Uid, processes[i].User, want)
		}
	}
}

func TestTerminalsHaveNames(t *testing.T) {
	for dev, want := range map[uint64]string{0: "", 136<<8 | 3: "pts/3", 5<<8 | 1: "console", 4<<8 | 1: "tty1", 4<<8 | 64: "ttyS0", 7 << 8: "?"} {
		if got := terminalName(dev); got != want {
			t.Errorf("%s is %q, want %q", strconv.FormatUint(dev, 16), got, want)
		}
	}
}

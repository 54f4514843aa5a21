package ext4

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func options(size int64) Options {
	when := time.Unix(1_600_000_000, 123_456_789)
	return Options{
		Size: size, UUID: [16]byte{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}, Time: time.Unix(1_700_000_000, 5),
		Files: []File{
			{Name: "dir", Mode: modeDir | 0o1751, UID: 70_000, GID: 80_000, Mtime: when, Children: []File{
				{Name: "file", Mode: modeReg | 0o640, Mtime: when, Data: []byte("content")},
				{Name: "empty", Mode: modeReg | 0o600, Mtime: time.Unix(-1, 0)},
				{Name: "big", Mode: modeReg | 0o600, Mtime: time.Unix(1<<32+7, 9), Data: []byte(strings.Repeat("0123456789", 20_000))},
			}},
			{Name: "sub", Mode: modeDir | 0o755, Mtime: when, Children: []File{{Name: "sub", Mode: modeDir | 0o700, Mtime: when}}},
		},
	}
}

func format(t testing.TB, o Options) string {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "disk.ext4"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(o.Size); err != nil {
		t.Fatal(err)
	}
	if err := Format(f, o); err != nil {
		t.Fatal(err)
	}
	return f.Name()
}

func output(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", name, err, out)
	}
	return string(out)
}

func TestE2fsckFindsNoFault(t *testing.T) {
	const group = 128 << 20
	sizes := []int64{MinSize, MinSize + BlockSize, 20 << 20, group - BlockSize, group, group + BlockSize, group + 3<<20, 2 * group, 1 << 30, 3*group + 2<<20, 2<<30 + 77*BlockSize, 10 << 30}
	for _, size := range sizes {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			path := format(t, options(size))
			// -f checks though it is clean, -n changes nothing; any fault is an exit status.
			if out := output(t, "e2fsck", "-fn", path); strings.Contains(out, "Fix") {
				t.Errorf("e2fsck: %s", out)
			}
		})
	}
}

func TestDebugfsFindsTheFiles(t *testing.T) {
	path := format(t, options(1<<30))
	debugfs := func(request string) string { return output(t, "debugfs", "-R", request, path) }
	if got := debugfs("cat /dir/file"); !strings.HasSuffix(got, "content") {
		t.Errorf("file is %q", got)
	}
	if got := debugfs("cat /dir/big"); !strings.Contains(got, strings.Repeat("0123456789", 20_000)) {
		t.Errorf("big has %d bytes", len(got))
	}
	for name, wants := range map[string][]string{
		"/dir":       {"Mode:  01751", "User: 70000", "Group: 80000", "mtime: 0x5f5e1000:1d6f3454", "crtime: 0x6553f100:00000014"},
		"/dir/empty": {"Size: 0", "mtime: 0xffffffff:00000000"},
		"/dir/big":   {"Size: 200000", "mtime: 0x00000007:00000025"},
		"<8>":        {"Size: 33554432"},
	} {
		got := debugfs("stat " + name)
		for _, want := range wants {
			if !strings.Contains(got, want) {
				t.Errorf("%s has no %q:\n%s", name, want, got)
			}
		}
	}
	stats := debugfs("stats")
	for _, want := range []string{"01020304-0506-0708-090a-0b0c0d0e0f10", "metadata_csum", "has_journal", "clean"} {
		if !strings.Contains(stats, want) {
			t.Errorf("no %q in %s", want, stats)
		}
	}
}

func TestWhatCantBeFormattedIsRefused(t *testing.T) {
	change := func(size int64, change func(o *Options)) Options {
		o := options(size)
		change(&o)
		return o
	}
	tests := map[string]Options{
		"small":      options(MinSize - BlockSize),
		"large":      options(MaxSize + BlockSize),
		"odd":        options(MinSize + 1),
		"too much":   change(MinSize, func(o *Options) { o.Files[0].Children[0].Data = make([]byte, 12<<20) }),
		"long name":  change(MinSize, func(o *Options) { o.Files[0].Name = strings.Repeat("n", 256) }),
		"no name":    change(MinSize, func(o *Options) { o.Files[0].Name = "" }),
		"other mode": change(MinSize, func(o *Options) { o.Files[0].Mode = 0o644 }),
		"many files": change(MinSize, func(o *Options) {
			for i := range 200 {
				o.Files = append(o.Files, File{Name: fmt.Sprintf("%020d", i), Mode: modeReg})
			}
		}),
	}
	for name, o := range tests {
		t.Run(name, func(t *testing.T) {
			f, err := os.Create(filepath.Join(t.TempDir(), "disk"))
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if err := Format(f, o); err == nil {
				t.Error("no error")
			}
			if st, err := f.Stat(); err != nil || st.Size() != 0 {
				t.Errorf("%d bytes were written: %v", st.Size(), err)
			}
		})
	}
}

func BenchmarkFormat(b *testing.B) {
	f, err := os.Create(filepath.Join(b.TempDir(), "disk"))
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	o := options(10 << 30)
	for b.Loop() {
		if err := Format(f, o); err != nil {
			b.Fatal(err)
		}
	}
}

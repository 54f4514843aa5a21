package rootfs

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// writable are options for a disk that runs a command.
func writable(args ...string) WritableOptions {
	return WritableOptions{Size: 10 << 30, UUID: "01234567-89ab-cdef-0123-456789abcdef", Entrypoint: args, Config: []byte(`{"ociVersion":"1.2.0"}`)}
}

func debugfs(t *testing.T, path, request string) string {
	t.Helper()
	out, err := exec.Command("debugfs", "-R", request, path).Output()
	if err != nil {
		t.Fatalf("debugfs %s: %v", request, err)
	}
	return string(out)
}

func TestTheWritableDiskHoldsTheCommand(t *testing.T) {
	commands := [][]string{
		{"sh"},
		{"sh", "-c", "echo \"a\"\n\t'b' \\ é \U0001f600 </&>\u2028", "", "-x", "--"},
		{"sh", strings.Repeat("x", 100<<10)},
	}
	for _, args := range commands {
		path := filepath.Join(t.TempDir(), "rootfs.ext4")
		if err := CreateWritable(t.Context(), path, writable(args...)); err != nil {
			t.Fatal(err)
		}
		var got []string
		if err := json.Unmarshal([]byte(debugfs(t, path, "cat /.runcvm/entrypoint")), &got); err != nil || !slices.Equal(got, args) {
			t.Errorf("entrypoint %.100q, want %.100q: %v", got, args, err)
		}
		if got := debugfs(t, path, "cat /.runcvm/config.json"); got != `{"ociVersion":"1.2.0"}` {
			t.Errorf("config.json is %q", got)
		}
	}
}

func TestTheWritableDiskIsSoundAtAnySize(t *testing.T) {
	for _, size := range []int64{MinWritable, 17 << 20, 100 << 20, 1 << 30, 10<<30 + 4096, 1 << 40} {
		path := filepath.Join(t.TempDir(), "rootfs.ext4")
		o := writable("sh")
		o.Size = size
		if err := CreateWritable(t.Context(), path, o); err != nil {
			t.Errorf("size %d: %v", size, err)
			continue
		}
		if size <= 1<<30 { // larger ones take e2fsck seconds
			if out, err := exec.Command("e2fsck", "-fn", path).CombinedOutput(); err != nil {
				t.Errorf("size %d: e2fsck: %v\n%s", size, err, out)
			}
		}
		features := debugfs(t, path, "stats")
		if !strings.Contains(features, "has_journal") || !strings.Contains(features, o.UUID) {
			t.Errorf("size %d: %s", size, features)
		}
		if st, err := os.Stat(path); err != nil || st.Size() != size {
			t.Errorf("size %d: %v, %v", size, st.Size(), err)
		}
	}
}

func TestAWritableDiskThatCantBeIsRefused(t *testing.T) {
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	size := func(n int64) WritableOptions { o := writable("sh"); o.Size = n; return o }
	uuid := writable("sh")
	uuid.UUID = "no uuid"
	tests := []struct {
		name string
		ctx  context.Context
		o    WritableOptions
		want string
	}{
		{"no command", t.Context(), writable(), "no command"},
		{"an empty command", t.Context(), writable("", "a"), "no command"},
		{"not UTF-8", t.Context(), writable("echo", "a\xffb"), `argument 1 of the command, "a\xffb", is not valid UTF-8`},
		{"NUL", t.Context(), writable("echo", "a\x00b"), "contains a NUL"},
		{"too small", t.Context(), size(MinWritable - 4096), "between 16777216 and"},
		{"no whole blocks", t.Context(), size(1<<30 + 1), "multiple of 4096"},
		{"no UUID", t.Context(), uuid, "UUID"},
		{"canceled", canceled, writable("sh"), "canceled"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			if err := CreateWritable(tt.ctx, filepath.Join(dir, "rootfs.ext4"), tt.o); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want one with %q", err, tt.want)
			}
			if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
				t.Errorf("left %v, %v", left, err)
			}
		})
	}
}

func TestAWritableDiskNeverTakesAnothersPlace(t *testing.T) {
	path := filepath.Join(t.TempDir(), "rootfs.ext4")
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := CreateWritable(t.Context(), path, writable("sh")); !errors.Is(err, os.ErrExist) {
		t.Errorf("error %v", err)
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != "precious" {
		t.Errorf("the file has %q: %v", b, err)
	}
}

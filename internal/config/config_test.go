package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func env(m map[string]string) func(string) (string, bool) {
	return func(name string) (string, bool) {
		v, ok := m[name]
		return v, ok
	}
}

func file(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config.toml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func find(t *testing.T, c *Config, key string) Value {
	t.Helper()
	for _, v := range c.Values() {
		if v.Key == key {
			return v
		}
	}
	t.Fatalf("no setting %s", key)
	return Value{}
}

func TestEachSourceOverridesTheOneBelow(t *testing.T) {
	path := file(t, "log_level = \"warn\"\n[guest]\nmemory = \"1GiB\"\ncpus = 2\n[disk]\ncache = false\n")
	c, err := Load(env(map[string]string{"RUNCVM_CONFIG": path, "RUNCVM_LOG_LEVEL": "debug", "ROOTFS_CACHE_ACTIVE": "1"}))
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Set("guest.cpus", "3", "--cpus"); err != nil {
		t.Fatal(err)
	}
	for _, want := range []Value{
		{Key: "data_dir", Value: "/var/lib/runcvm", Origin: "default"},
		{Key: "guest.memory", Value: "1GiB", Origin: path},
		{Key: "log_level", Value: "debug", Origin: "$RUNCVM_LOG_LEVEL"},
		{Key: "disk.cache", Value: "true", Origin: "$ROOTFS_CACHE_ACTIVE"},
		{Key: "guest.cpus", Value: "3", Origin: "--cpus"},
	} {
		if got := find(t, c, want.Key); got.Value != want.Value || got.Origin != want.Origin {
			t.Errorf("%s is %q from %q, want %q from %q", want.Key, got.Value, got.Origin, want.Value, want.Origin)
		}
	}
	if c.Memory != 1<<30 || c.CPUs != 3 || !c.CacheActive || c.BootTimeout != 2*time.Minute {
		t.Errorf("typed fields: %+v", c)
	}
}

func TestAllFaultsAreReportedAtOnce(t *testing.T) {
	path := file(t, "log_level = \"loud\"\ncolour = 1\n[guest]\nmemory = \"some\"\n")
	_, err := Load(env(map[string]string{"RUNCVM_CONFIG": path, "RUNCVM_CPUS": "0", "RUNCVM_DATA_DIR": "here"}))
	if err == nil {
		t.Fatal("accepted")
	}
	for _, part := range []string{"log_level", "loud", `unknown key "colour"`, "guest.memory", "$RUNCVM_CPUS", "not an absolute path"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%q is not in: %v", part, err)
		}
	}
}

func TestOnlyAFileThatWasNamedMustExist(t *testing.T) {
	if _, err := Load(env(map[string]string{"RUNCVM_CONFIG": "/nonexistent/config.toml"})); err == nil {
		t.Error("a named file that is missing was passed over")
	}
	if _, err := Load(env(nil)); err != nil && strings.Contains(err.Error(), "no such file") {
		t.Errorf("the default file must not be needed: %v", err)
	}
}

func TestValuesCrossToAnotherProcessUnchanged(t *testing.T) {
	c, err := Load(env(map[string]string{"RUNCVM_MEMORY": "1000000000", "RUNCVM_CACHE_KEY": "k\n\"x", "RUNCVM_BOOT_TIMEOUT": "90s"}))
	if err != nil {
		t.Fatal(err)
	}
	d, err := FromValues(c.Values())
	if err != nil {
		t.Fatal(err)
	}
	for i, v := range c.Values() {
		if w := d.Values()[i]; v != w {
			t.Errorf("%+v became %+v", v, w)
		}
	}
}

func TestParseSize(t *testing.T) {
	for in, want := range map[string]int64{
		"0": 0, "1": 1, "1b": 1, "1k": 1024, "1kb": 1024, "1KiB": 1024, "512m": 512 << 20, "1.5g": 3 << 29, " 2 GiB ": 2 << 30, "1T": 1 << 40,
	} {
		if got, err := ParseSize(in); err != nil || got != want {
			t.Errorf("ParseSize(%q) = %d, %v, want %d", in, got, err, want)
		}
	}
	for _, in := range []string{"", "m", "-1", "1x", "1mm", "NaN", "inf", "1e30g", "0x10"} {
		if got, err := ParseSize(in); err == nil {
			t.Errorf("ParseSize(%q) = %d, want an error", in, got)
		}
	}
}

package install

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

func FuzzUnpack(f *testing.F) {
	f.Add([]byte("\x7fELF"))
	f.Add([]byte{0x1f, 0x8b, 8, 0})
	f.Add([]byte("hello"))
	f.Fuzz(func(t *testing.T, b []byte) {
		dir := t.TempDir()
		path := filepath.Join(dir, "source")
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		programs, err := unpack(path, "firecracker", dir)
		if err != nil {
			return
		}
		for _, p := range programs {
			if filepath.Dir(p.Path) != dir || p.Name != "firecracker" && p.Name != "jailer" {
				t.Errorf("%+v", p)
			}
		}
		if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, b) {
			t.Errorf("the source has changed: %v", err)
		}
	})
}

func FuzzFindSum(f *testing.F) {
	f.Add("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855  a.tgz\n", "a.tgz")
	f.Add("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", "a.tgz")
	f.Fuzz(func(t *testing.T, text, name string) {
		if sum, err := findSum(text, name); err == nil && !isSum(sum) {
			t.Errorf("%q", sum)
		}
	})
}

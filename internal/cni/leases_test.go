package cni

import (
	"os"
	"path/filepath"
	"testing"
)

func TestUnwrittenLeasesAreDropped(t *testing.T) {
	dir := t.TempDir()
	list := []byte(`{"name":"n","plugins":[{"type":"bridge","ipam":{"type":"host-local","dataDir":"` + dir + `"}},{"type":"portmap"}]}`)
	if err := dropUnwritten(list); err != nil {
		t.Errorf("without any lease: %v", err)
	}
	leases := filepath.Join(dir, "n")
	if err := os.Mkdir(leases, 0o755); err != nil {
		t.Fatal(err)
	}
	kept := map[string]bool{"10.0.0.2": true, "fd00::2": true, "10.0.0.3": false, "fd00::3": false, "lock": true, "last_reserved_ip.0": true}
	for name := range kept {
		var text string
		if name == "10.0.0.2" || name == "fd00::2" {
			text = "container\r\neth0"
		}
		if err := os.WriteFile(filepath.Join(leases, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := dropUnwritten(list); err != nil {
		t.Fatal(err)
	}
	for name, want := range kept {
		if _, err := os.Stat(filepath.Join(leases, name)); (err == nil) != want {
			t.Errorf("%s: %v, want it kept: %t", name, err, want)
		}
	}
}

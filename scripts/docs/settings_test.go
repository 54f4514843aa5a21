package main

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"testing"

	"github.com/runcvm/runcvm/internal/config"
)

func TestTheSettingsFileIsReadAsTheDefaults(t *testing.T) {
	want, err := defaults()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "config.toml")
	text := settingsFile(want)
	for name, text := range map[string][]byte{
		"as it is": text, "with all of it in force": regexp.MustCompile(`(?m)^#(\w+ = )`).ReplaceAll(text, []byte("$1")),
	} {
		if err := os.WriteFile(file, text, 0o644); err != nil {
			t.Fatal(err)
		}
		c, err := config.Load(func(name string) (string, bool) { return file, name == "RUNCVM_CONFIG" })
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		got := c.Values()
		for i := range got {
			if name != "as it is" && got[i].Origin != file {
				t.Errorf("%s is not in the file", got[i].Key)
			}
			got[i].Origin = want[i].Origin
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s it is %+v, want %+v", name, got, want)
		}
	}
}

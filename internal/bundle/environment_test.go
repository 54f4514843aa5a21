package bundle

import (
	"strings"
	"testing"
)

func TestTheServiceManagersSocketIsNamed(t *testing.T) {
	for value, want := range map[string]int{"/run/systemd/notify": 1, "": 0} {
		notes := EnvironmentNotes(func(name string) (string, bool) { return value, name == "NOTIFY_SOCKET" })
		if len(notes) != want || want > 0 && !strings.Contains(notes[0], "NOTIFY_SOCKET") {
			t.Errorf("%q: %q", value, notes)
		}
	}
	if notes := EnvironmentNotes(func(string) (string, bool) { return "", false }); notes != nil {
		t.Errorf("%q", notes)
	}
}

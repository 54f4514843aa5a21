package bundle

import (
	"strings"
	"testing"
)

func TestTheServiceManagersSocketIsNamed(t *testing.T) {
	b := &Bundle{Notes: []string{"a note"}}
	for value, want := range map[string]int{"/run/systemd/notify": 1, "": 0} {
		notes := b.CreationNotes(func(name string) (string, bool) { return value, name == "NOTIFY_SOCKET" })
		if len(notes) != 1+want || notes[0] != "a note" || want > 0 && !strings.Contains(notes[1], "NOTIFY_SOCKET") {
			t.Errorf("%q: %q", value, notes)
		}
	}
	if notes := b.CreationNotes(func(string) (string, bool) { return "", false }); len(notes) != 1 {
		t.Errorf("%q", notes)
	}
}

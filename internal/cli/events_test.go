package cli

import "testing"

func TestAnEventIsOneLineWithoutATerminalsControls(t *testing.T) {
	for text, want := range map[string]string{
		"exec_create: sh -c 'ä'": "exec_create: sh -c 'ä'",
		"a\nb\rc\td":             "a\\nb\\rc\td",
		"\x1b[2J\a\b\x7f":        `\x1b[2J\a\b\x7f`,
		"\u009b2J":               `\u009b2J`,
		"a\xffb":                 "a\uFFFDb",
	} {
		if got := oneLine(text); got != want {
			t.Errorf("%q becomes %q, want %q", text, got, want)
		}
	}
}

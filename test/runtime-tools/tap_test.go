package runtimetools

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
)

// plan is a line that says how many tests there were. It may be in the output of a container's process, which some programs quote.
var plan = regexp.MustCompile(`(^|\n|\\n)1\.\.\d+`)

// fault says what is wrong with the output of a program, which is of the Test Anything Protocol, or "". By its exit code a program tells
// little of that.
func fault(stdout, stderr string) string {
	for line := range strings.Lines(stdout) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "not ok") && !strings.Contains(line, "# SKIP") && !strings.Contains(line, "# TODO") {
			return line
		}
	}
	begun, ended := strings.Count(stdout, "TAP version 13"), plan.FindAllString(stdout, -1)
	switch {
	case begun == 0 && !strings.Contains(stderr, "failed to create the container"):
		// Only a program that wants a container to be refused has nothing to say.
		return "it ran no tests"
	case begun != len(ended):
		// The program in the container, which has no exit code for that, died.
		return fmt.Sprintf("of %d series of tests, %d came to their end", begun, len(ended))
	case begun > 0 && strings.Contains(stdout, `"error":`) && strings.HasSuffix(ended[begun-1], "1..0"):
		return "it has no tests, but an error"
	}
	return ""
}

func TestAFaultIsSeenInTheOutput(t *testing.T) {
	const refused = "failed to create the container\n"
	for _, c := range []struct{ name, stdout, stderr, want string }{
		{"passed", "TAP version 13\nok 1 - a\nnot ok 2 # TODO b\n1..2\n", "", ""},
		{"failed", "TAP version 13\nok 1 - a\nnot ok 2 - b\n1..2\n", "", "not ok 2 - b"},
		{"failed in the container", "TAP version 13\n  stdout: |\n    not ok 2 - b\nok 1\n1..1\n", "", "not ok 2 - b"},
		{"died", "TAP version 13\nok 1 - a\n", "level=fatal\n", "of 1 series of tests, 0 came to their end"},
		{"died in the container", "TAP version 13\n\"stdout\": \"TAP version 13\\nok 1\\n\"\nok 1\n1..1\n", "",
			"of 2 series of tests, 1 came to their end"},
		{"passed in the container", "TAP version 13\n\"stdout\": \"TAP version 13\\nok 1\\n1..1\\n\"\nok 1\n1..1\n", "", ""},
		{"said nothing", "", "", "it ran no tests"},
		{"refused, as it is to be", "", refused, ""},
		{"an error alone", "TAP version 13\n  ---\n  {\n    \"error\": \"MUST\"\n  }\n  ...\n1..0\n", "", "it has no tests, but an error"},
		{"no tests", "TAP version 13\n1..0\n", "", ""},
	} {
		if got := fault(c.stdout, c.stderr); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

package cli

import (
	"strings"
	"testing"
)

func TestRemovingByForceWhatIsNotThereIsNoFailure(t *testing.T) {
	for _, verb := range []string{"rm", "rmi"} {
		for _, force := range []bool{false, true} {
			a := testApp(t)
			var stdout, stderr strings.Builder
			a.stdout, a.stderr = &stdout, &stderr
			args := []string{verb, "--data-dir", t.TempDir(), "--run-dir", t.TempDir(), "nope"}
			if force {
				args = append(args, "-f")
			}
			root := a.root()
			root.SetArgs(args)
			if err := root.Execute(); (err == nil) != force || stdout.String() != "" || strings.Contains(stderr.String(), "nope") != force {
				t.Errorf("%s: %v, output %q, errors %q", args, err, stdout.String(), stderr.String())
			}
		}
	}
}

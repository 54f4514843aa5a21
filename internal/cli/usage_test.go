package cli

import (
	"errors"
	"strings"
	"testing"

	"github.com/runcvm/runcvm/internal/cmdline"
)

func TestAWrongCommandLineIsToldWithItsVerbAndItsUsage(t *testing.T) {
	for line, want := range map[string]struct {
		code int
		text []string
	}{
		"run":              {1, []string{"run: requires at least 1 arg", "Usage:  runcvm run [flags] IMAGE", `See "runcvm run --help"`}},
		"run --nope x":     {125, []string{"run: unknown flag: --nope", `See "runcvm run --help"`}},
		"ps --nope":        {125, []string{"ps: unknown flag: --nope"}},
		"kernel list -x":   {125, []string{"kernel list: unknown shorthand flag", `See "runcvm kernel list --help"`}},
		"ps x":             {1, []string{`unknown command "x"`, "Usage:  runcvm ps"}},
		"kernel lists":     {1, []string{`unknown command "lists" for "runcvm kernel"`, `See "runcvm kernel --help"`}},
		"--nope":           {125, []string{`unknown flag: --nope; see "runcvm --help"`}},
		"nope":             {1, []string{`unknown command "nope" for "runcvm"`}},
		"help nope":        {1, []string{`unknown command "nope" for "runcvm"`}},
		"help kernel list": {0, nil},
		"kernel":           {0, nil},
	} {
		root := testApp(t).root()
		root.SetArgs(strings.Fields(line))
		root.SetOut(new(strings.Builder))
		err, code := root.Execute(), 0
		if exit := new(cmdline.ExitError); errors.As(err, &exit) {
			code = exit.Code
		} else if err != nil {
			code = 1
		}
		if code != want.code {
			t.Errorf("%s: %v, exit code %d instead of %d", line, err, code, want.code)
		}
		for _, text := range want.text {
			if err == nil || !strings.Contains(err.Error(), text) {
				t.Errorf("%s: %v lacks %q", line, err, text)
			}
		}
	}
}

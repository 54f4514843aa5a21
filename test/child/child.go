// Package child runs a test's own program once more, as a process that is to be killed at its work. The program's TestMain knows itself
// by a variable of its environment, and calls Begun once it works.
package child

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

const begun = "begun\n"

// Begun tells Start that the process works.
func Begun() { fmt.Print(begun) }

// Start starts the process with these variables beside the test's, and returns once it works.
func Start(t testing.TB, variables ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), variables...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err == nil {
		_, err = io.ReadFull(out, make([]byte, len(begun)))
	}
	if err != nil {
		t.Fatalf("%v: %s", err, stderr.String())
	}
	return cmd
}

// Kill kills a process of Start, which must not have ended by itself.
func Kill(t testing.TB, cmd *exec.Cmd) {
	t.Helper()
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	err := cmd.Wait()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Errorf("the process ended with %v: %s", err, cmd.Stderr)
	}
}

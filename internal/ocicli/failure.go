package ocicli

import (
	"errors"
	"regexp"

	"github.com/runcvm/runcvm/internal/sandbox"
)

// programErrors are what engines take in a runtime's error for the container's program being missing, or being none, and what they are
// to read instead where it is not the program that fails. Docker looks for them in daemon/errors.go (moby), its command in
// cli/command/container/run.go, and Podman in libpod/oci_util.go. The words must not be others by which engines know something either, as
// "does not exist".
var programErrors = []struct{ text, instead string }{
	{"no such file or directory", "is not there (ENOENT)"},
	{"executable file not found", "program not found"},
	{"system cannot find the file specified", "system does not find the file"},
	{"open executable", "open the executable"},
	{"failed to run runc create/exec call", "failed to run runc"},
	{"permission denied", "access denied (EACCES)"},
	{"operation not permitted", "not allowed (EPERM)"},
	{"is a directory", "names a directory (EISDIR)"},
	{"not a directory", "no directory (ENOTDIR)"},
}

// failure is an error as an engine gets to read it: only one of the container's program may be taken for one.
func failure(err error) string {
	text := err.Error()
	if program := new(sandbox.ExecError); errors.As(err, &program) {
		return text
	}
	for _, e := range programErrors {
		text = regexp.MustCompile("(?i)"+regexp.QuoteMeta(e.text)).ReplaceAllLiteralString(text, e.instead)
	}
	return text
}

// processError says that a process of the container could not be started: for its program, where the code is one that tells so.
func processError(text string, code int) error {
	const cannotExecute, notFound = 126, 127
	if code == cannotExecute || code == notFound {
		return &sandbox.ExecError{Code: code, Message: "unable to start container process: " + text}
	}
	return errors.New("unable to start the container: " + text)
}

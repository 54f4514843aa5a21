package ocicli

import (
	"errors"
	"os/exec"
	"regexp"
	"strings"
	"syscall"

	"github.com/runcvm/runcvm/internal/sandbox"
)

// marks are what engines take in a runtime's error for the container's program being missing, or being none. Docker looks for them in
// daemon/errors.go (moby), its command in cli/command/container/run.go, and Podman in libpod/oci_util.go; each has a space.
var marks = []*regexp.Regexp{
	mark("no such file or directory"),
	mark("executable file not found"),
	mark("system cannot find the file specified"),
	mark("open executable"),
	mark("failed to run runc create/exec call"),
	mark("permission denied"),
	mark("operation not permitted"),
	mark("is a directory"),
	mark("not a directory"),
}

func mark(text string) *regexp.Regexp { return regexp.MustCompile("(?i)" + regexp.QuoteMeta(text)) }

// markedErrors are errors whose texts are marks, with what they read as where it is not the container's program that fails. The words must
// not be others by which engines know something either, as "does not exist".
var markedErrors = map[error]string{
	syscall.ENOENT:   "is not there (ENOENT)",
	syscall.EACCES:   "access denied (EACCES)",
	syscall.EPERM:    "not allowed (EPERM)",
	syscall.EISDIR:   "names a directory (EISDIR)",
	syscall.ENOTDIR:  "no directory (ENOTDIR)",
	exec.ErrNotFound: "program not found",
}

// failure is an error as an engine gets to read it: only one of the container's program may be taken for one.
func failure(err error) string {
	if program := new(sandbox.ExecError); errors.As(err, &program) {
		return err.Error()
	}
	return unmark(reword(err))
}

// reword is an error's text in which the errors of markedErrors that it wraps have other words. What else is in the text stays: paths, and
// what programs said.
func reword(err error) string {
	switch e := err.(type) { //nolint:errorlint // each layer in its turn
	case syscall.Errno:
		if text, ok := markedErrors[e]; ok {
			return text
		}
	case interface{ Unwrap() error }:
		if inner := e.Unwrap(); inner != nil {
			// The last place: a cause follows what it is of, a path that may have the same words.
			text, told := err.Error(), inner.Error()
			if i := strings.LastIndex(text, told); i >= 0 {
				return text[:i] + reword(inner) + text[i+len(told):]
			}
		}
	case interface{ Unwrap() []error }:
		var done strings.Builder
		rest := err.Error()
		for _, inner := range e.Unwrap() {
			if before, after, ok := strings.Cut(rest, inner.Error()); ok {
				done.WriteString(before + reword(inner))
				rest = after
			}
		}
		return done.String() + rest
	}
	if err == exec.ErrNotFound { //nolint:errorlint // this layer
		return markedErrors[err]
	}
	return err.Error()
}

// unmark has the marks that are left, in names and in what others said, with a no-break space: a reader sees the same words, and an engine
// does not find them.
func unmark(text string) string {
	for _, m := range marks { // one after the other, for two may have a word in common
		text = m.ReplaceAllStringFunc(text, func(found string) string { return strings.Replace(found, " ", "\u00a0", 1) })
	}
	return text
}

// processError says that a process could not be started, the container's own or a further one, as subject names it: for its program, where
// the code is one that tells so.
func processError(subject, text string, code int) error {
	const cannotExecute, notFound = 126, 127
	if code == cannotExecute || code == notFound {
		return &sandbox.ExecError{Code: code, Message: "unable to start container process: " + text}
	}
	return errors.New("unable to start " + subject + ": " + text)
}

// Package cmdline is what the runcvm program's command lines have in common, the people's and an OCI runtime's. Calls are legal at any
// time.
package cmdline

// ExitError is an error with an exit code of its own.
type ExitError struct {
	Err  error
	Code int
}

func (e *ExitError) Error() string { return e.Err.Error() }

// Unwrap returns the error itself.
func (e *ExitError) Unwrap() error { return e.Err }

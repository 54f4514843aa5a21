// Package cmdline is what the runcvm program's command lines have in common, the people's and an OCI runtime's. Calls are legal at any
// time.
package cmdline

import "runtime/debug"

// ExitError is an error with an exit code of its own.
type ExitError struct {
	Err  error
	Code int
}

func (e *ExitError) Error() string { return e.Err.Error() }

// Unwrap returns the error itself.
func (e *ExitError) Unwrap() error { return e.Err }

// Version is what the build says of itself, as the commit's pseudo-version; "unknown" where it says nothing.
func Version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" {
		return "unknown"
	}
	return info.Main.Version
}

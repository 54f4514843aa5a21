// Package version tells which RunCVM this is. Its function is legal at any time.
package version

import "runtime/debug"

// linked is given by the linker, for a build that knows better: Go finds none in a git worktree, or with GOFLAGS=-buildvcs=false.
var linked string

// String is the version of the commit that this program was built from, as Go writes it; "(devel)" where the build knew of none.
func String() string {
	if linked != "" {
		return linked
	}
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" {
		return "unknown"
	}
	return info.Main.Version
}

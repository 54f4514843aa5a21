// Package engine starts container engines for tests: Debian's Docker, a current Docker, and Debian's Podman, each on a Host of its own.
//
// New starts one, with both runtimes known to it; Load brings images there. Commands may be run from any goroutine until the test ends.
// At its end the engine is stopped, everything that it has left is reported, and its namespaces are ended with all that is in them. When
// the test's process dies, so do they.
package engine

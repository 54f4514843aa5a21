// Package engines runs one table of cases with Docker and Podman, under runc and under RunCVM. In what the two differ stands in
// differences/differences.json, which must be exactly what the tests find.
package engines

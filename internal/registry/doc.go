// Package registry pulls images from registries: the OCI distribution specification, with the names, the credentials and the
// choices that Docker's users know.
//
// Everything that a registry sends is bounded and verified by its digest. Legal order: Parse a name; New, once, for a Client;
// then Pull in any order and by any goroutine.
package registry

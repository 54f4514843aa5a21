// Command registry is the reference registry, github.com/distribution/distribution, with what the tests need of it: files,
// TLS and htpasswd. Its own main program links every cloud's client as well, which takes minutes to build.
package main

import (
	"os"

	"github.com/distribution/distribution/v3/registry"
	_ "github.com/distribution/distribution/v3/registry/auth/htpasswd"
	_ "github.com/distribution/distribution/v3/registry/storage/driver/filesystem"
)

func main() {
	if err := registry.RootCmd.Execute(); err != nil {
		os.Exit(1)
	}
}

// Command runcvm runs OCI containers, each in a microVM of its own.
package main

import (
	"os"
	"time"

	"github.com/runcvm/runcvm/internal/cli"
)

func main() {
	os.Exit(cli.Execute(time.Now()))
}

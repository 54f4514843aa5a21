//go:build e2e

// Package run tests runcvm's own command line on real guests.
package run

import (
	"testing"

	"github.com/runcvm/runcvm/test/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }

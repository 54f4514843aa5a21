//go:build e2e

package registry

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/runcvm/runcvm/test/harness"
)

type number interface{ int | int64 }

func errTooFew[N number](n N) error { return fmt.Errorf("only %d so far", n) }

func rangeFrom(offset int64) string { return fmt.Sprintf("bytes=%d-", offset) }

// layerSize is the size of a layer's blob.
func layerSize(t testing.TB, img v1.Image, i int) int64 {
	t.Helper()
	return must(must(img.Layers())(t)[i].Size())(t)
}

// nothingNamed checks that a host has no image and no disk; what a killed pull was collecting may be there.
func nothingNamed(t testing.TB, h *harness.Host) {
	t.Helper()
	for _, pattern := range []string{"images/names/*", "images/blobs/sha256/*", "disks/????????????????????????????????*.erofs"} {
		if left := must(filepath.Glob(filepath.Join(h.DataDir, pattern)))(t); len(left) > 0 {
			t.Errorf("left: %q", left)
		}
	}
}

// shellWords makes a shell's command of arguments.
func shellWords(args []string) string {
	quoted := make([]string, len(args))
	for i, a := range args {
		quoted[i] = "'" + strings.ReplaceAll(a, "'", `'\''`) + "'"
	}
	return strings.Join(quoted, " ")
}

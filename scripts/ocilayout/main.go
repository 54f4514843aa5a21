// Command ocilayout writes an OCI image layout whose only image has one gzip layer for each root directory's tar stream
// that it is given, so that demo and tests have a real image without a registry.
//
//	ocilayout -name debian:12 -cmd '["bash"]' OUT LAYER.tar...
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func main() {
	name := flag.String("name", "", "reference kept in the layout's index (org.opencontainers.image.ref.name)")
	cmd := flag.String("cmd", "[]", "the image's Cmd, a JSON array of strings")
	flag.Parse()
	if err := run(*name, *cmd, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "ocilayout:", err)
		os.Exit(1)
	}
}

// run writes the layout beside its destination and renames it into place, so that a layout that exists is whole.
func run(name, cmdJSON string, args []string) (err error) {
	if len(args) < 2 {
		return errors.New("usage: ocilayout [-name REFERENCE] [-cmd JSON] OUT LAYER.tar")
	}
	var cmd []string
	if err := json.Unmarshal([]byte(cmdJSON), &cmd); err != nil {
		return fmt.Errorf("-cmd %s: %w", cmdJSON, err)
	}
	img, err := image(cmd, args[1:])
	if err != nil {
		return err
	}
	out := filepath.Clean(args[0])
	part, err := os.MkdirTemp(filepath.Dir(out), filepath.Base(out)+".part-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(part)) }()
	path, err := layout.Write(part, empty.Index)
	if err != nil {
		return fmt.Errorf("write %s: %w", part, err)
	}
	annotations := layout.WithAnnotations(map[string]string{ocispec.AnnotationRefName: name})
	if err := path.AppendImage(img, annotations); err != nil {
		return fmt.Errorf("write image to %s: %w", part, err)
	}
	if err := os.RemoveAll(out); err != nil {
		return err
	}
	return os.Rename(part, out)
}

func image(cmd, layers []string) (v1.Image, error) {
	// What Docker puts into images that set no PATH of their own.
	env := []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	img, err := mutate.ConfigFile(img, &v1.ConfigFile{
		Architecture: "amd64",
		OS:           "linux",
		Created:      v1.Time{Time: time.Now().UTC()},
		RootFS:       v1.RootFS{Type: "layers"},
		Config:       v1.Config{Cmd: cmd, Env: env},
	})
	if err != nil {
		return nil, fmt.Errorf("set configuration: %w", err)
	}
	for _, file := range layers {
		layer, err := tarball.LayerFromFile(file, tarball.WithMediaType(types.OCILayer))
		if err != nil {
			return nil, fmt.Errorf("layer %s: %w", file, err)
		}
		if img, err = mutate.AppendLayers(img, layer); err != nil {
			return nil, fmt.Errorf("append layer %s: %w", file, err)
		}
	}
	return img, nil
}

package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// holder is the name of the record by which a container holds its image, in the container's directory.
const holder = "image.json"

// containers is the directory with the containers' directories: beside the store.
func (s *Store) containers() string { return filepath.Join(filepath.Dir(s.dir), "containers") }

// Hold writes the image's record to path, image.json in the directory of a container beside the store. For as long as that
// file is there, the image's blobs are, whatever becomes of its names. errdefs.ErrNotFound says that the image has been
// removed meanwhile.
func (s *Store) Hold(ctx context.Context, img Image, path string) error {
	if filepath.Base(path) != holder || filepath.Dir(filepath.Dir(path)) != s.containers() {
		return fmt.Errorf("hold image %s: %s is no place for it", img.Name, path)
	}
	lock, err := s.lockAs(ctx, unix.LOCK_SH)
	if err != nil {
		return err
	}
	defer lock.Close()
	for _, d := range img.Blobs {
		if _, err := os.Stat(s.blobPath(d)); errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("image %s: %w: it was removed just now", img.Name, errdefs.ErrNotFound)
		} else if err != nil {
			return fmt.Errorf("hold image %s: %w", img.Name, err)
		}
	}
	b, err := json.Marshal(img)
	if err != nil {
		return err
	}
	tmp := path + ".tmp"
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("hold image %s: %w", img.Name, err)
	}
	// Durable before it has its name: after a power failure the file is whole, or not there.
	if err := writeSynced(tmp, b); err != nil {
		return fmt.Errorf("hold image %s: %w", img.Name, err)
	}
	if err := os.Rename(tmp, path); err != nil {
		return fmt.Errorf("hold image %s: %w", img.Name, err)
	}
	return nil
}

// Held returns the image whose record Hold wrote to path; fs.ErrNotExist where it did not.
func Held(path string) (Image, error) { return readImage(path) }

// held are the images that containers hold.
func (s *Store) held() ([]Image, error) {
	dirs, err := os.ReadDir(s.containers())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look for images that containers use: %w", err)
	}
	var images []Image
	for _, dir := range dirs {
		img, err := readImage(filepath.Join(s.containers(), dir.Name(), holder))
		if errors.Is(err, fs.ErrNotExist) {
			continue // it holds none yet, or was removed just now
		}
		if damaged := new(damagedError); errors.As(err, &damaged) {
			// It holds nothing: its container cannot be started again, whatever blobs there are.
			slog.Warn("A container's record of its image is damaged; remove the container", "path", damaged.path, "error", damaged.err)
			continue
		}
		if err != nil {
			return nil, err
		}
		images = append(images, img)
	}
	return images, nil
}

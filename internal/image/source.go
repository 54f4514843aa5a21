package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
)

// source is a set of files that an image is read from: a directory or a tar.
type source interface {
	// open opens a file by its path in the source, with slashes.
	open(name string) (io.ReadCloser, error)
	// describe returns where such a file is, for people.
	describe(name string) string
}

// dirSource is a directory; nothing outside of it is reached, by symbolic links neither.
type dirSource struct{ root *os.Root }

func (d dirSource) open(name string) (io.ReadCloser, error) {
	f, err := d.root.Open(name)
	if err != nil {
		return nil, d.missing(name, err)
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file", d.describe(name))
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func (d dirSource) missing(name string, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s is missing: %w", d.describe(name), fs.ErrNotExist)
	}
	return err
}

func (d dirSource) describe(name string) string { return d.root.Name() + "/" + name }

// readSmall reads a whole file of at most maxJSON bytes.
func readSmall(src source, name string) ([]byte, error) {
	r, err := src.open(name)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	b, err := io.ReadAll(io.LimitReader(r, maxJSON+1))
	if err == nil && len(b) > maxJSON {
		err = fmt.Errorf("larger than %d bytes", maxJSON)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", src.describe(name), err)
	}
	return b, nil
}

// read finds out what path is and reads it.
func (in *importer) read(ctx context.Context, path, name string) (Image, error) {
	st, err := os.Stat(path)
	if err != nil {
		return Image{}, err
	}
	if !st.IsDir() {
		return Image{}, errors.New("files are not supported yet")
	}
	root, err := os.OpenRoot(path)
	if err != nil {
		return Image{}, err
	}
	defer root.Close()
	return in.readLayout(ctx, dirSource{root}, path, name)
}

package kernel

import (
	"archive/tar"
	"bufio"
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/klauspost/compress/zstd"
	bcjxz "github.com/therootcompany/xz"
)

// debVersion changes whenever what is taken out of a package does.
const debVersion = "deb 1"

const (
	// maxDebUnpacked bounds what a package unpacks to, in bytes; Debian's generic kernel has 400 MiB.
	maxDebUnpacked = 4 << 30
	// maxTrailer bounds the zeros after a package's last file, in bytes; tar pads to 10 KiB.
	maxTrailer   = 1 << 20
	arMagic      = "!<arch>\n"
	arHeaderSize = 60
)

// isDeb tells a Debian package (an ar archive, deb(5)) by its first bytes.
func isDeb(file string) (bool, error) {
	f, err := os.Open(file)
	if err != nil {
		return false, err
	}
	defer f.Close()
	var b [len(arMagic)]byte
	if _, err := io.ReadFull(f, b[:]); err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		return false, err
	}
	return string(b[:]) == arMagic, nil
}

// unpackDeb unpacks boot/ and lib/modules/ of a package into the cache and returns the directory. Only regular files are taken.
func unpackDeb(ctx context.Context, file, cacheDir string) (string, error) {
	key, err := identities(debVersion, file)
	if err != nil {
		return "", err
	}
	return cached(ctx, cacheDir, "deb-"+key, func(ctx context.Context, dir string) error {
		f, err := os.Open(file)
		if err != nil {
			return err
		}
		defer f.Close()
		return extractDeb(ctx, f, dir)
	})
}

// extractDeb reads a package from r and writes what a guest needs of it below dir.
func extractDeb(ctx context.Context, r io.Reader, dir string) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("corrupt package: the decoder failed: %v", p)
		}
	}()
	data, name, err := debData(bufio.NewReaderSize(&ctxReader{ctx, r}, 1<<20))
	if err != nil {
		return fmt.Errorf("package: %w", err)
	}
	switch path.Ext(name) {
	case ".tar":
	case ".gz":
		data, err = gzip.NewReader(data)
	case ".xz":
		data, err = bcjxz.NewReader(data, maxWindow)
	case ".zst":
		var d *zstd.Decoder
		if d, err = zstd.NewReader(data, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow)); err == nil {
			defer d.Close()
			data = d
		}
	default:
		err = errors.New("unknown compression")
	}
	if err != nil {
		return fmt.Errorf("package: %s: %w", name, err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	return extractTar(root, data)
}

// debData finds the member with the files; r is read up to it.
func debData(r *bufio.Reader) (data io.Reader, name string, err error) {
	if _, err := r.Discard(len(arMagic)); err != nil {
		return nil, "", err
	}
	for range 16 { // a package has three members: debian-binary, control.tar, data.tar
		var h [arHeaderSize]byte
		if _, err := io.ReadFull(r, h[:]); err != nil {
			return nil, "", fmt.Errorf("no data.tar in it: %w", err)
		}
		if h[58] != '`' || h[59] != '\n' {
			return nil, "", errors.New("corrupt ar header")
		}
		name = strings.TrimRight(strings.TrimRight(string(h[:16]), " "), "/")
		size, err := strconv.ParseInt(string(bytes.TrimRight(h[48:58], " ")), 10, 64)
		if err != nil || size < 0 {
			return nil, "", errors.New("corrupt ar header: size")
		}
		if strings.HasPrefix(name, "data.tar") {
			return io.LimitReader(r, size), name, nil
		}
		if _, err := io.CopyN(io.Discard, r, size+size%2); err != nil {
			return nil, "", err
		}
	}
	return nil, "", errors.New("no data.tar in it")
}

// debPath says where a file of a package goes; empty when the guest has no use for it.
func debPath(name string) string {
	name = strings.TrimPrefix(path.Clean("/"+name), "/")
	name = strings.TrimPrefix(name, "usr/") // packages of a merged /usr
	if strings.HasPrefix(name, "boot/") || strings.HasPrefix(name, "lib/modules/") {
		return name
	}
	return ""
}

func extractTar(root *os.Root, data io.Reader) error {
	t := tar.NewReader(data)
	var total int64
	for files := 0; ; files++ {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			// The checksum of the compression comes after the archive's end.
			if n, err := io.Copy(io.Discard, io.LimitReader(data, maxTrailer+1)); err != nil || n > maxTrailer {
				return fmt.Errorf("package: %d bytes after its last file: %w", n, cmp.Or(err, errors.New("too much")))
			}
			return nil
		}
		if err != nil {
			return fmt.Errorf("package: %w", err)
		}
		name := debPath(h.Name)
		if name == "" || h.Typeflag != tar.TypeReg {
			continue
		}
		if total += h.Size; total > maxDebUnpacked || files > maxModuleFiles {
			return fmt.Errorf("package: more than %d GiB or %d files", maxDebUnpacked>>30, maxModuleFiles)
		}
		if err := extractFile(root, name, t); err != nil {
			return fmt.Errorf("package: %w", err)
		}
	}
}

func extractFile(root *os.Root, name string, r io.Reader) (err error) {
	if err := root.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	f, err := root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	_, err = io.Copy(f, r)
	return err
}

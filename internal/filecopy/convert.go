package filecopy

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"github.com/runcvm/runcvm/internal/guestapi/archive"
	"github.com/runcvm/runcvm/internal/image/layer"
)

// plain writes the archive of a container's path as a tar stream like any other, in which what was copied is called name; without a
// name its content lies at the top. Nothing is passed on as the guest wrote it.
func plain(w io.Writer, r io.Reader, name string) error {
	isDir, empty := false, true
	err := convert(w, r, func(h *tar.Header, first bool) error {
		empty = false
		entry, err := archive.Local(h.Name)
		if err != nil {
			return err
		}
		if first {
			isDir = h.Typeflag == tar.TypeDir
		}
		if first != (entry == archive.Self) || !first && !isDir {
			return fmt.Errorf("the archive names %q beside what was copied", h.Name)
		}
		h.Name = path.Join(name, entry)
		if h.Typeflag == tar.TypeDir {
			h.Name += "/"
		}
		if h.Typeflag == tar.TypeLink {
			target, err := archive.Local(h.Linkname)
			if err != nil {
				return err
			}
			h.Linkname = path.Join(name, target)
		}
		return nil
	})
	if err == nil && empty {
		err = errors.New("the archive is empty")
	}
	return err
}

// wire writes a tar stream of the user's, compressed or not, as the guest's agent takes it.
func wire(w io.Writer, r io.Reader) error {
	decompressed, _, err := layer.Decompress(r)
	if err != nil {
		return fmt.Errorf("read the archive from standard input: %w", err)
	}
	defer decompressed.Close()
	if err := convert(w, decompressed, func(*tar.Header, bool) error { return nil }); err != nil {
		return fmt.Errorf("copy the archive from standard input: %w", err)
	}
	// What follows tar's end is padding; whoever writes it is not to get SIGPIPE.
	_, err = io.Copy(io.Discard, decompressed)
	return err
}

// convert copies a tar stream entry by entry. The headers are new ones, with what a copy carries, as change leaves them.
func convert(w io.Writer, r io.Reader, change func(h *tar.Header, first bool) error) error {
	in, out := tar.NewReader(r), tar.NewWriter(w)
	for first := true; ; first = false {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			return out.Close()
		}
		if err != nil {
			return fmt.Errorf("read the archive: %w", err)
		}
		if h.Typeflag == tar.TypeXGlobalHeader {
			continue
		}
		fresh, err := carried(h)
		if err == nil {
			err = change(fresh, first)
		}
		if err != nil {
			return err
		}
		if err := out.WriteHeader(fresh); err != nil {
			return fmt.Errorf("copy %q: %w", h.Name, err)
		}
		if fresh.Typeflag == tar.TypeReg {
			if err := archive.Expand(out, h, in); err != nil {
				return fmt.Errorf("copy %q: %w", h.Name, err)
			}
		}
	}
}

// carried is a header with what a copy carries of h.
func carried(h *tar.Header) (*tar.Header, error) {
	fresh := &tar.Header{
		Typeflag: h.Typeflag, Name: h.Name, Linkname: h.Linkname, Mode: h.Mode & 0o7777, Uid: h.Uid, Gid: h.Gid, ModTime: h.ModTime,
		Devmajor: h.Devmajor, Devminor: h.Devminor, Format: tar.FormatPAX,
	}
	switch h.Typeflag {
	case tar.TypeReg, 0, tar.TypeCont, tar.TypeGNUSparse:
		fresh.Typeflag = tar.TypeReg
		size, err := archive.Size(h)
		if err != nil {
			return nil, err
		}
		fresh.Size = size
	case tar.TypeDir, tar.TypeLink, tar.TypeSymlink, tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
	default:
		return nil, fmt.Errorf("unhandled tar header type %d of %q", h.Typeflag, h.Name)
	}
	for key, value := range h.PAXRecords {
		if name, ok := strings.CutPrefix(key, "SCHILY.xattr."); ok && archive.Carried(name) {
			if fresh.PAXRecords == nil {
				fresh.PAXRecords = map[string]string{}
			}
			fresh.PAXRecords[key] = value
		}
	}
	return fresh, nil
}

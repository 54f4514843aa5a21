// Package install installs a release of Firecracker, after its checksum was verified and its programs have said what they are.
//
// Install is legal at any time. Programs are replaced by a rename, so that one that runs goes on, and whoever starts one finds
// the old or the new.
package install

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Options say what is installed.
type Options struct {
	// Source is the path or URL of a release's .tgz, or of one program.
	Source string
	// SHA256 is Source's, in hexadecimal. Checksums is the path or URL of a file that has it. Where both are empty it is
	// Source with ".sha256.txt" at its end, as it lies beside Firecracker's releases.
	SHA256, Checksums string
	// Dir is where the programs go.
	Dir string
}

// Program is one that was installed.
type Program struct {
	Name    string // firecracker or jailer
	Path    string
	Version string
}

// ErrUnverified says that Source has no checksum by which it could be verified.
var ErrUnverified = errors.New("there is no checksum to verify it by")

const (
	// maxSource bounds what is taken in, in bytes: a release has some 10 MiB, with debugging symbols 100.
	maxSource = 1 << 30
	// maxChecksums bounds a file of checksums, in bytes.
	maxChecksums = 1 << 20
	// tmpPrefix marks files that are being made; staleAfter is when one is a leftover.
	tmpPrefix  = ".runcvm-install-"
	staleAfter = time.Hour
)

// Install installs what o says and returns the programs.
func Install(ctx context.Context, o Options) ([]Program, error) {
	want, err := checksum(ctx, o)
	if err != nil {
		return nil, fmt.Errorf("install %s: %w", o.Source, err)
	}
	if err := os.MkdirAll(o.Dir, 0o755); err != nil {
		return nil, fmt.Errorf("install: %w; run it as root, or choose a directory by --dir", err)
	}
	removeStale(o.Dir)
	work, err := os.MkdirTemp(o.Dir, tmpPrefix)
	if err != nil {
		return nil, fmt.Errorf("install: %w; run it as root, or choose a directory by --dir", err)
	}
	defer func() { _ = os.RemoveAll(work) }() // what stays is removed by the next
	programs, err := unpackVerified(ctx, o, want, work)
	if err != nil {
		return nil, fmt.Errorf("install %s: %w", o.Source, err)
	}
	// All are good; now each takes its place. Firecracker last: it is what doctor and starts look for.
	for i := range programs {
		p := &programs[i]
		to := filepath.Join(o.Dir, p.Name)
		if err := os.Rename(p.Path, to); err != nil {
			return nil, fmt.Errorf("install %s: %w", to, err)
		}
		p.Path = to
	}
	return programs, syncDir(o.Dir)
}

func unpackVerified(ctx context.Context, o Options, want, work string) ([]Program, error) {
	path := filepath.Join(work, "source")
	got, err := fetch(ctx, o.Source, path)
	if err != nil {
		return nil, err
	}
	if got != want {
		return nil, fmt.Errorf("its SHA-256 is %s, not %s: nothing was installed", got, want)
	}
	programs, err := unpack(path, filepath.Base(cutQuery(o.Source)), work)
	if err != nil {
		return nil, err
	}
	for i := range programs {
		if err := programs[i].check(ctx); err != nil {
			return nil, err
		}
	}
	return programs, nil
}

// fetch copies the source to a file and returns its SHA-256.
func fetch(ctx context.Context, source, path string) (string, error) {
	r, err := open(ctx, source)
	if err != nil {
		return "", err
	}
	defer r.Close()
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return "", err
	}
	h := sha256.New()
	n, err := io.Copy(io.MultiWriter(f, h), io.LimitReader(r, maxSource+1))
	if err = errors.Join(err, f.Close()); err != nil {
		return "", fmt.Errorf("fetch it: %w", err)
	}
	if n > maxSource {
		return "", fmt.Errorf("it has more than %d MiB", maxSource>>20)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// checksum is what the source must have.
func checksum(ctx context.Context, o Options) (string, error) {
	if o.SHA256 != "" {
		sum := strings.ToLower(strings.TrimPrefix(o.SHA256, "sha256:"))
		if !isSum(sum) {
			return "", fmt.Errorf("--sha256 %q is not 64 hexadecimal digits", o.SHA256)
		}
		return sum, nil
	}
	file := o.Checksums
	if file == "" {
		// What whoever can change the one can change the other beside it is worth only as much as the way to both.
		if strings.HasPrefix(o.Source, "http://") && !local(o.Source) {
			return "", fmt.Errorf("%w: http does not protect one that lies beside it; use https, or give --sha256", ErrUnverified)
		}
		file = cutQuery(o.Source) + ".sha256.txt"
	}
	r, err := open(ctx, file)
	if err != nil && o.Checksums == "" {
		return "", fmt.Errorf("%w: %w; give it by --sha256 or --checksum-file", ErrUnverified, err)
	}
	if err != nil {
		return "", err
	}
	defer r.Close()
	b, err := io.ReadAll(io.LimitReader(r, maxChecksums))
	if err != nil {
		return "", fmt.Errorf("read %s: %w", file, err)
	}
	sum, err := findSum(string(b), filepath.Base(cutQuery(o.Source)))
	if err != nil {
		return "", fmt.Errorf("%w: %s %w; give it by --sha256", ErrUnverified, file, err)
	}
	return sum, nil
}

// findSum finds the checksum of a name in lines of sha256sum, or takes the only one where it has no name.
func findSum(text, name string) (string, error) {
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) == 0 || !isSum(strings.ToLower(fields[0])) {
			continue
		}
		alone := len(fields) == 1 && len(strings.Fields(text)) == 1
		if alone || len(fields) == 2 && filepath.Base(strings.TrimPrefix(fields[1], "*")) == name {
			return strings.ToLower(fields[0]), nil
		}
	}
	return "", fmt.Errorf("has none of %s", name)
}

func isSum(s string) bool {
	b, err := hex.DecodeString(s)
	return err == nil && len(b) == sha256.Size
}

func removeStale(dir string) {
	left, _ := filepath.Glob(filepath.Join(dir, tmpPrefix+"*"))
	for _, path := range left {
		if info, err := os.Lstat(path); err == nil && time.Since(info.ModTime()) > staleAfter {
			_ = os.RemoveAll(path) // one that stays only takes room
		}
	}
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

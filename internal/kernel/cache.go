package kernel

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/runcvm/runcvm/internal/filelock"
)

// identity is what tells one content of a file from another without reading it.
func identity(path string) (string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return "", err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return "", fmt.Errorf("%s: no inode", path)
	}
	return fmt.Sprintf("%s %d:%d %d %d.%d %d.%d", path, st.Dev, st.Ino, st.Size,
		st.Mtim.Sec, st.Mtim.Nsec, st.Ctim.Sec, st.Ctim.Nsec), nil
}

// identities is a cache key for what is made from these files; an empty path stands for a file that there is not. The kind
// names what is made and the version of the code that makes it.
func identities(kind string, paths ...string) (string, error) {
	h := sha256.New()
	fmt.Fprintf(h, "%s\n", kind)
	for _, p := range paths {
		id := ""
		if p != "" {
			var err error
			if id, err = identity(p); err != nil {
				return "", err
			}
		}
		fmt.Fprintf(h, "%s\n", id)
	}
	return hex.EncodeToString(h.Sum(nil)[:16]), nil
}

// lockPrefix begins the name of the file whose lock is held by who makes an entry. The entry's name follows.
const lockPrefix = ".lock-"

// staleAfter is when a temporary directory of a process that was killed is removed: longer than any unpacking takes.
const staleAfter = time.Hour

// cached returns the directory cacheDir/name, making it with fill where it does not exist yet. It appears there whole, with
// its files on disk, or not at all; of several processes at once one makes it and the others wait.
func cached(ctx context.Context, cacheDir, name string, fill func(ctx context.Context, dir string) error) (string, error) {
	final := filepath.Join(cacheDir, name)
	if use(cacheDir, name) {
		return final, nil
	}
	if err := os.MkdirAll(cacheDir, 0o755); err != nil {
		return "", fmt.Errorf("kernel cache: %w", err)
	}
	// Many guests that start at once on a host that has no entry yet would else make it at the expense of each other.
	lock, err := awaitTurn(ctx, filepath.Join(cacheDir, lockPrefix+name))
	if err != nil {
		return "", fmt.Errorf("kernel cache: %w", err)
	}
	if lock != nil {
		defer func() { _ = filelock.Drop(lock) }()
	}
	if use(cacheDir, name) {
		return final, nil
	}
	removeStale(cacheDir)
	tmp, err := os.MkdirTemp(cacheDir, ".tmp-")
	if err != nil {
		return "", fmt.Errorf("kernel cache: %w", err)
	}
	// What cannot be removed now goes with removeStale.
	defer func() { _ = os.RemoveAll(tmp) }()
	// The files are read by the VMM, which may run as another user.
	if err := os.Chmod(tmp, 0o755); err != nil {
		return "", fmt.Errorf("kernel cache: %w", err)
	}
	if err := fill(ctx, tmp); err != nil {
		return "", err
	}
	if err := os.Rename(tmp, final); err != nil && !isDir(final) {
		return "", fmt.Errorf("kernel cache: %w", err)
	}
	return final, nil
}

// maxTurn is how long one waits for another who makes the same entry. Who makes it may be slow: its container's limits hold for it.
var maxTurn = 2 * time.Minute

// awaitTurn takes the lock of who makes an entry. It is nil where another has had it for too long: the entry is made twice then.
func awaitTurn(ctx context.Context, path string) (*os.File, error) {
	short, cancel := context.WithTimeout(ctx, maxTurn)
	defer cancel()
	lock, err := filelock.Path(short, path)
	if err != nil && ctx.Err() == nil && short.Err() != nil {
		slog.WarnContext(ctx, "another start has been making the same entry of the kernel cache for long: it is made twice", "lock", path)
		return nil, nil
	}
	return lock, err
}

func removeStale(cacheDir string) {
	leftovers, _ := filepath.Glob(filepath.Join(cacheDir, ".tmp-*"))
	for _, dir := range leftovers {
		if info, err := os.Lstat(dir); err == nil && time.Since(info.ModTime()) > staleAfter {
			// One that stays only takes room, and is tried again.
			_ = os.RemoveAll(dir)
		}
	}
}

// writeSynced writes a file and brings it to the disk, so that a rename after it never shows it empty after a crash.
func writeSynced(path string, write func(*os.File) error) (err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := write(f); err != nil {
		return err
	}
	return f.Sync()
}

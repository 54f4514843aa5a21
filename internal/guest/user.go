package guest

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/moby/sys/user"
	"golang.org/x/sys/unix"
)

// maxUserFile bounds /etc/passwd and /etc/group of a container, in bytes.
const maxUserFile = 16 << 20

// execUser is process.user of the OCI specification.
type execUser struct {
	UID            uint32   `json:"uid"`
	GID            uint32   `json:"gid"`
	Umask          *uint32  `json:"umask,omitempty"`
	AdditionalGids []uint32 `json:"additionalGids,omitempty"`
	home           string
}

func (u *execUser) addGroups(gids []uint32) {
	for _, g := range gids {
		if !slices.Contains(u.AdditionalGids, g) {
			u.AdditionalGids = append(u.AdditionalGids, g)
		}
	}
}

// resolveUser finds an image's user (name|uid[:group|gid], empty for root) in the container's own files.
func resolveUser(rootfs int, spec string) (execUser, error) {
	passwd, err := openIn(rootfs, "etc/passwd")
	if err != nil {
		return execUser{}, err
	}
	defer passwd.Close()
	group, err := openIn(rootfs, "etc/group")
	if err != nil {
		return execUser{}, err
	}
	defer group.Close()
	return lookUpUser(spec, passwd, group)
}

func lookUpUser(spec string, passwd, group io.Reader) (execUser, error) {
	u, err := user.GetExecUser(spec, &user.ExecUser{Home: "/"}, passwd, group)
	if err != nil {
		return execUser{}, fmt.Errorf("user %q: %w", spec, err)
	}
	out := execUser{UID: uint32(u.Uid), GID: uint32(u.Gid), home: u.Home}
	for _, g := range u.Sgids {
		out.addGroups([]uint32{uint32(g)})
	}
	return out, nil
}

// resolveGroups finds groups by name or number in the container's own file.
func resolveGroups(rootfs int, names []string) ([]uint32, error) {
	group, err := openIn(rootfs, "etc/group")
	if err != nil {
		return nil, err
	}
	defer group.Close()
	found, err := user.GetAdditionalGroups(names, group)
	if err != nil {
		return nil, fmt.Errorf("group-add %q: %w", names, err)
	}
	gids := make([]uint32, len(found))
	for i, g := range found {
		gids[i] = uint32(g)
	}
	return gids, nil
}

// openIn opens a regular file of the container for reading; its symbolic links cannot lead out of the container. A file that does
// not exist reads as empty.
func openIn(rootfs int, path string) (io.ReadCloser, error) {
	// O_NONBLOCK: what the image has in that place may be a FIFO.
	fd, err := unix.Openat2(rootfs, path, &unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_CLOEXEC | unix.O_NONBLOCK | unix.O_NOCTTY,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	})
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return io.NopCloser(eof{}), nil
	}
	if err != nil {
		return nil, fmt.Errorf("/%s of the container: %w", path, err)
	}
	f := os.NewFile(uintptr(fd), path)
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = errors.New("not a regular file")
	}
	if err == nil && info.Size() > maxUserFile {
		err = fmt.Errorf("%d bytes are too much", info.Size())
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("/%s of the container: %w", path, err), f.Close())
	}
	return struct {
		io.Reader
		io.Closer
	}{io.LimitReader(f, maxUserFile), f}, nil
}

type eof struct{}

func (eof) Read([]byte) (int, error) { return 0, io.EOF }

// readFileBounded reads a file of at most limit bytes.
func readFileBounded(path string, limit int64) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("%s: more than %d bytes", path, limit)
	}
	return b, err
}

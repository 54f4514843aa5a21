package rootfs

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// overlay is what the kernel says of an overlay that is mounted.
type overlay struct {
	// lowers are in overlayfs's order, the topmost first, those with data only last.
	lowers []lowerDir
	upper  string
	// options say how notes in the layers are read; ordered, so that they can be part of a key.
	options []string
	// user says that notes are kept in user's extended attributes.
	user bool
}

type lowerDir struct {
	path string
	data bool
}

// parseOverlay reads the options of an overlay as /proc/PID/mountinfo shows them: as they were given, or, of one mounted by
// fsconfig(2), a lower directory each.
func parseOverlay(options string) (overlay, error) {
	var o overlay
	for option := range strings.SplitSeq(options, ",") {
		name, value, _ := strings.Cut(option, "=")
		value = unescapeOctal(value)
		switch name {
		case "lowerdir":
			o.lowers = append(o.lowers, splitLowers(value)...)
		case "lowerdir+":
			o.lowers = append(o.lowers, lowerDir{path: value})
		case "datadir+":
			o.lowers = append(o.lowers, lowerDir{path: value, data: true})
		case "upperdir":
			o.upper = value
		case "userxattr":
			o.user = true
			o.options = append(o.options, "userxattr")
		case "metacopy":
			// It brings redirect_dir=on with it, and would contradict any other.
			if value == "on" {
				o.options = append(o.options, "metacopy=on")
			}
		case "redirect_dir":
			// Without an upper layer nothing is redirected anew, but what was is followed.
			if value == "on" || value == "follow" {
				o.options = append(o.options, "redirect_dir=follow")
			}
		}
	}
	if slices.Contains(o.options, "metacopy=on") {
		o.options = slices.DeleteFunc(o.options, func(s string) bool { return strings.HasPrefix(s, "redirect_dir=") })
	}
	slices.Sort(o.options)
	if len(o.lowers) == 0 {
		return o, fmt.Errorf("the overlay's options %q name no lower directory", options)
	}
	return o, nil
}

// splitLowers splits overlayfs's list: ":" between two, "::" before one with data only, "\" before a character that is meant.
func splitLowers(list string) []lowerDir {
	var found []lowerDir
	var path strings.Builder
	data := false
	for i := 0; i < len(list); i++ {
		switch {
		case list[i] == '\\' && i+1 < len(list):
			i++
			path.WriteByte(list[i])
		case list[i] == ':':
			found = append(found, lowerDir{path.String(), data})
			path.Reset()
			if data = i+1 < len(list) && list[i+1] == ':'; data {
				i++
			}
		default:
			path.WriteByte(list[i])
		}
	}
	return append(found, lowerDir{path.String(), data})
}

// unescapeOctal undoes how the kernel writes what would end a field (seq_escape: "\" and three octal digits).
func unescapeOctal(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) && isOctal(s[i+1:i+4]) {
			b.WriteByte((s[i+1]-'0')<<6 | (s[i+2]-'0')<<3 | s[i+3] - '0')
			i += 3
			continue
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

func isOctal(s string) bool { return s[0] <= '3' && strings.Trim(s, "01234567") == "" }

// maxLegacyOptions is what an old kernel takes of an overlay's options, less some for the others: a page.
const maxLegacyOptions = 4000

// mountLayers lays layers over each other, read-only, and returns the root directory of the result. The mount is in no
// directory of anybody's: it ends with the descriptor. The layers are those that were opened, whatever their paths lead to by
// now. empty is an empty directory: an overlay without an upper layer has at least two.
func mountLayers(layers []layerDir, options []string, empty string) (*os.File, error) {
	fsfd, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("overlayfs: %w", err)
	}
	defer unix.Close(fsfd)
	set := func(name, value string) {
		if err == nil {
			err = unix.FsconfigSetString(fsfd, name, value)
		}
	}
	set("source", "runcvm")
	lowers := lowerOptions(layers, empty)
	for _, l := range lowers {
		set(l[0], l[1])
	}
	for _, o := range options {
		name, value, valued := strings.Cut(o, "=")
		if valued {
			set(name, value)
		} else if err == nil {
			err = unix.FsconfigSetFlag(fsfd, name)
		}
	}
	if err == nil {
		err = unix.FsconfigCreate(fsfd)
	}
	if err != nil {
		return nil, fmt.Errorf("lay %d layers over each other: %w%s", len(layers), err, contextMessages(fsfd))
	}
	const attributes = unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC | unix.MOUNT_ATTR_NOATIME
	mount, err := unix.Fsmount(fsfd, unix.FSMOUNT_CLOEXEC, attributes)
	if err != nil {
		return nil, fmt.Errorf("mount %d layers over each other: %w", len(layers), err)
	}
	defer unix.Close(mount)
	root, err := unix.Openat(mount, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open the layers' root directory: %w", err)
	}
	return os.NewFile(uintptr(root), "the layers"), nil
}

// lowerOptions are the options that name the layers: one, which every kernel knows, or, where that would be too long, one each.
func lowerOptions(layers []layerDir, empty string) [][2]string {
	var list strings.Builder
	var each [][2]string
	for i, l := range layers {
		path := fmt.Sprintf("/proc/self/fd/%d", l.dir.Fd())
		switch {
		case l.data:
			list.WriteString("::" + path)
			each = append(each, [2]string{"datadir+", path})
			continue
		case i > 0:
			list.WriteString(":")
		}
		list.WriteString(path)
		each = append(each, [2]string{"lowerdir+", path})
	}
	if len(layers) == 1 {
		return [][2]string{{"lowerdir", list.String() + ":" + empty}}
	}
	if list.Len() <= maxLegacyOptions {
		return [][2]string{{"lowerdir", list.String()}}
	}
	return each
}

// contextMessages returns what the kernel has to say of an error, which is one message a read.
func contextMessages(fsfd int) string {
	var all string
	buf := make([]byte, 512)
	for {
		n, err := unix.Read(fsfd, buf)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if n <= 0 {
			return all
		}
		all += ": " + strings.TrimSpace(string(buf[:n]))
	}
}

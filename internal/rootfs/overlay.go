package rootfs

import (
	"errors"
	"fmt"
	"os"
	"runtime"
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
			b.WriteByte((s[i+1]-'0')<<6 | (s[i+2]-'0')<<3 | (s[i+3] - '0'))
			i += 3
			continue
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

func isOctal(s string) bool { return s[0] <= '3' && strings.Trim(s, "01234567") == "" }

// maxOptions is what the kernel takes of a mount's options, in bytes: a page less one.
const maxOptions = 4095

// mountLayers lays layers over each other, read-only, and returns the root directory of the result. The mount is in a namespace that
// nobody else has, and ends with the descriptor. at is an empty directory, which it is mounted on, and which lies below a single
// layer: an overlay without an upper layer has at least two. (fsconfig(2), by which a mount needs no directory, takes no more than
// 255 bytes of lowerdir, and a layer at a time only since Linux 6.7.)
func mountLayers(layers []layerDir, options []string, at string) (root *os.File, err error) {
	inPrivateMounts(func(e error) {
		if err = e; err != nil {
			return
		}
		root, err = mountHere(layers, options, at)
	})
	if err != nil {
		return nil, fmt.Errorf("lay %d layers over each other: %w", len(layers), err)
	}
	return root, nil
}

// mountHere is mountLayers in the namespace where it is called. The layers are opened anew, since overlayfs takes none of another
// namespace, and must be the same ones.
func mountHere(layers []layerDir, options []string, at string) (*os.File, error) {
	var list strings.Builder
	for i, l := range layers {
		here, err := openLayer(l.path)
		if err != nil {
			return nil, err
		}
		defer here.dir.Close()
		if here.id != l.id {
			return nil, fmt.Errorf("layer %s was replaced while it was used", l.path)
		}
		if l.data {
			list.WriteString("::")
		} else if i > 0 {
			list.WriteString(":")
		}
		fmt.Fprintf(&list, "/proc/self/fd/%d", here.dir.Fd())
	}
	if len(layers) == 1 {
		list.WriteString(":" + at)
	}
	all := strings.Join(append(slices.Clip(options), "lowerdir="+list.String()), ",")
	if len(all) > maxOptions {
		return nil, errors.New("they are more than Linux mounts; give the image fewer layers (docker build --squash, or a FROM scratch " +
			"with COPY)")
	}
	const flags = unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC | unix.MS_NOATIME
	if err := unix.Mount("runcvm", at, "overlay", flags, all); err != nil {
		return nil, fmt.Errorf("mount overlay: %w", err)
	}
	return os.OpenFile(at, os.O_RDONLY|unix.O_DIRECTORY, 0)
}

// inPrivateMounts calls f in a mount namespace that is its own, and gives it the error where there is none. The namespace ends with
// f, and what f has mounted with the last descriptor there.
func inPrivateMounts(f func(error)) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // for ever: Go ends the thread, but for the main one
		if unix.Gettid() == unix.Getpid() {
			inPrivateMounts(f) // while this one is taken
			runtime.UnlockOSThread()
			return
		}
		err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_FS)
		if err == nil {
			err = unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
		}
		if err != nil {
			err = fmt.Errorf("make a mount namespace: %w", err)
		}
		f(err)
	}()
	<-done
}

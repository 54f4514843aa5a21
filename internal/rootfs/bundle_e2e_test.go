//go:build e2e

package rootfs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/runcvm/runcvm/internal/guestapi"
)

// store lays layers out as Docker's overlay2 does: HOME/ID/diff, HOME/ID/link with the name of HOME/l/NAME.
type store struct {
	t    *testing.T
	home string
}

func newStore(t *testing.T) store {
	t.Helper()
	s := store{t, t.TempDir()}
	must(t, os.Mkdir(filepath.Join(s.home, "l"), 0o700))
	return s
}

func (s store) at(id string) string { return filepath.Join(s.home, id, "diff") }

// add makes an empty layer.
func (s store) add(id string) string {
	s.t.Helper()
	dir := filepath.Join(s.home, id)
	must(s.t, os.Mkdir(dir, 0o710), os.Mkdir(filepath.Join(dir, "diff"), 0o755), os.Mkdir(filepath.Join(dir, "work"), 0o700),
		os.Mkdir(filepath.Join(dir, "merged"), 0o700), os.WriteFile(filepath.Join(dir, "link"), []byte("L"+id), 0o644))
	must(s.t, os.Symlink("../"+id+"/diff", filepath.Join(s.home, "l", "L"+id)))
	return s.at(id)
}

func (s store) remove(id string) {
	s.t.Helper()
	must(s.t, os.RemoveAll(filepath.Join(s.home, id)), os.Remove(filepath.Join(s.home, "l", "L"+id)))
}

// mount mounts a container's layer on others, the topmost first, by relative paths as Docker does, and returns where.
func (s store) mount(id, options string, lowers ...string) string {
	s.t.Helper()
	for i := range lowers {
		lowers[i] = "l/L" + lowers[i]
	}
	cmd := exec.Command("mount", "-t", "overlay", "overlay", "-o",
		fmt.Sprintf("lowerdir=%s,upperdir=%s/diff,workdir=%s/work%s", strings.Join(lowers, ":"), id, id, options), id+"/merged")
	cmd.Dir = s.home
	if out, err := cmd.CombinedOutput(); err != nil {
		s.t.Fatalf("mount: %v\n%s", err, out)
	}
	s.t.Cleanup(func() { s.unmount(id) })
	return filepath.Join(s.home, id, "merged")
}

func (s store) unmount(id string) {
	_ = unix.Unmount(filepath.Join(s.home, id, "merged"), unix.MNT_DETACH)
}

// change has the kernel make a layer, by what is done in an overlay.
func (s store) change(id, options string, f func(root string), lowers ...string) {
	s.t.Helper()
	s.add(id)
	f(s.mount(id, options, lowers...))
	s.unmount(id)
}

func (s store) write(path, content string) {
	s.t.Helper()
	must(s.t, os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(content), 0o644))
}

func opened(t *testing.T, path string) *BundleRoot {
	t.Helper()
	r, err := OpenBundleRoot(path)
	must(t, err)
	t.Cleanup(func() { must(t, r.Close()) })
	return r
}

// bundleDisk returns the disk of a root and its file's number.
func bundleDisk(t *testing.T, c *Cache, path string, o DiskOptions) (*Disk, uint64) {
	t.Helper()
	d, err := c.BundleDisk(t.Context(), opened(t, path), o)
	must(t, err)
	t.Cleanup(func() { must(t, d.Close()) })
	var st unix.Stat_t
	must(t, unix.Stat(d.Path, &st))
	return d, st.Ino
}

// guestView mounts what the guest mounts: the disks, and an overlay on them.
func guestView(t *testing.T, image, start *Disk) string {
	t.Helper()
	lowers := []string{mount(t, image.Path), t.TempDir()}
	if start != nil {
		dir := mount(t, start.Path)
		if _, err := os.Stat(filepath.Join(dir, guestapi.UpperDir)); err == nil {
			lowers = append([]string{filepath.Join(dir, guestapi.UpperDir)}, lowers...)
		}
	}
	dir := t.TempDir()
	must(t, unix.Mount("overlay", dir, "overlay", unix.MS_RDONLY, "lowerdir="+strings.Join(lowers, ":")))
	t.Cleanup(func() { must(t, unix.Unmount(dir, 0)) })
	return dir
}

var cached = DiskOptions{Cache: true}

// layers makes two layers: some kinds of files, of which everyKind has all, and what can be done to them.
func (s store) layers(options string) {
	s.t.Helper()
	base := s.add("base")
	for _, path := range []string{"changed", "gone", "moved", "many/a", "many/b", "sub/file", "deep/er/file", "kept/file", "acl/file", "empty/file", "pair"} {
		s.write(filepath.Join(base, path), strings.Repeat(path, 1000))
	}
	must(s.t, os.Link(filepath.Join(base, "pair"), filepath.Join(base, "linked")), os.Symlink("/etc/passwd", filepath.Join(base, "symlink")),
		os.Lchown(filepath.Join(base, "symlink"), 7, 8), unix.Mknod(filepath.Join(base, "null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))),
		unix.Setxattr(filepath.Join(base, "kept/file"), "security.capability", []byte(capability), 0),
		unix.Setxattr(filepath.Join(base, "acl"), "system.posix_acl_default", []byte(acl), 0), os.Chmod(base, 0o751), os.Chown(base, 11, 12))
	sparse(s.t, filepath.Join(base, "sparse"), 5<<30, map[int64]string{4 << 30: "beyond 4 GiB"})
	s.change("second", options, func(root string) {
		at := func(name string) string { return filepath.Join(root, name) }
		must(s.t, os.Remove(at("gone")), os.RemoveAll(at("many")), os.Mkdir(at("many"), 0o711), os.Chmod(at("changed"), 0o600),
			os.RemoveAll(at("sub")), os.WriteFile(at("sub"), []byte("a file now"), 0o644), os.Rename(at("moved"), at("renamed")))
		if options != "" {
			must(s.t, os.Rename(at("deep"), at("shallow")))
		}
		s.write(at("many/new"), "new")
	}, "base")
}

// overlayOptions are the ways in which engines mount, by names that are no options.
var overlayOptions = map[string]string{"plain": "", "redirected": ",redirect_dir=on", "metacopy": ",metacopy=on"}

func TestTheDiskOfAnOverlayIsItsLowerLayers(t *testing.T) {
	for name, options := range overlayOptions {
		t.Run(name, func(t *testing.T) {
			s := newStore(t)
			s.layers(options)
			s.add("c1")
			merged := s.mount("c1", options, "second", "base")
			c := cache(t)
			d, first := bundleDisk(t, c, merged, cached)
			if n := takes(t, d.Path); n > 10<<20 {
				t.Errorf("disk takes %d bytes: the holes are filled", n)
			}
			must(t, exec.Command("touch", "-r", s.at("second"), s.at("c1")).Run()) // its root is the one that is seen
			compareOverlays(t, merged, guestView(t, d, nil))

			s.add("c2")
			if _, second := bundleDisk(t, c, s.mount("c2", options, "second", "base"), cached); second != first {
				t.Error("the second container of the layers has a disk of its own")
			}
			for name, o := range map[string]DiskOptions{"another key": {Cache: true, CacheKey: "k"}, "no cache": {}} {
				if _, other := bundleDisk(t, c, merged, o); other == first {
					t.Errorf("%s: it is the same disk", name)
				}
			}
		})
	}
}

// compareOverlays is compare but for the number of a directory's links, which overlayfs makes up.
func compareOverlays(t *testing.T, want, got string) {
	t.Helper()
	compareTrees(t, want, got, false)
}

func TestALayerThatWasMadeAnewIsAnother(t *testing.T) {
	s, c := newStore(t), cache(t)
	var disks []*Disk
	for i := range 3 {
		s.write(filepath.Join(s.add("base"), "file"), fmt.Sprint("content ", i))
		s.add("c")
		d, err := c.BundleDisk(t.Context(), opened(t, s.mount("c", "", "base")), cached)
		must(t, err)
		if b, err := os.ReadFile(filepath.Join(mount(t, d.Path), "file")); string(b) != fmt.Sprint("content ", i) {
			t.Errorf("disk %d has %q: %v", i, b, err)
		}
		disks = append(disks, d)
		s.unmount("c")
		s.remove("c")
		s.remove("base")
	}
	// All of them have lost their layers.
	for _, d := range disks {
		must(t, d.Close())
	}
	items, err := c.Garbage(t.Context())
	must(t, err)
	for _, i := range items {
		if i.Kind == "image disk" && !strings.Contains(i.Why, "are gone") {
			t.Errorf("%s: %s", i.Path, i.Why)
		}
	}
	// What is built next takes them along.
	s.add("other")
	s.add("c")
	bundleDisk(t, c, s.mount("c", "", "other"), cached)
	left, err := c.List(t.Context())
	must(t, err)
	if len(left) != 1 {
		t.Errorf("%d disks are left", len(left))
	}
}

// TestADirectoryThatIsNoLayerIsReadEachTime has new content at the same path, in the same directory.
func TestADirectoryThatIsNoLayerIsReadEachTime(t *testing.T) {
	c := cache(t)
	dir, upper, work := t.TempDir(), t.TempDir(), t.TempDir()
	work = filepath.Join(filepath.Dir(upper), filepath.Base(work)+"-work")
	must(t, os.Mkdir(work, 0o700))
	for name, root := range map[string]func(t *testing.T) string{
		"directory": func(*testing.T) string { return dir },
		"overlay": func(t *testing.T) string {
			at := t.TempDir()
			must(t, unix.Mount("overlay", at, "overlay", 0, fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", dir, upper, work)))
			t.Cleanup(func() { must(t, unix.Unmount(at, 0)) })
			return at
		},
		"bind mount": func(t *testing.T) string {
			at := t.TempDir()
			must(t, unix.Mount(dir, at, "", unix.MS_BIND, ""))
			t.Cleanup(func() { must(t, unix.Unmount(at, 0)) })
			return at
		},
	} {
		for i := range 2 {
			t.Run(fmt.Sprint(name, i), func(t *testing.T) {
				want := fmt.Sprint(name, i)
				must(t, os.WriteFile(filepath.Join(dir, "file"), []byte(want), 0o644))
				at := root(t)
				d, _ := bundleDisk(t, c, at, cached)
				if b, err := os.ReadFile(filepath.Join(mount(t, d.Path), "file")); string(b) != want {
					t.Errorf("%q: %v", b, err)
				}
				if path := opened(t, at).WritablePath("/own"); path != "/own" {
					t.Errorf("the writable disk lies at %s", path)
				}
			})
		}
	}
	if left, err := c.List(t.Context()); err != nil || len(left) > 0 {
		t.Errorf("%d disks in the cache: %v", len(left), err)
	}
}

// dockerInit fills a layer as Docker does the one that it makes for each container.
func (s store) dockerInit(id string) {
	s.t.Helper()
	dir := s.add(id)
	for _, d := range []string{"dev/pts", "dev/shm", "etc", "proc", "sys"} {
		must(s.t, os.MkdirAll(filepath.Join(dir, d), 0o755))
	}
	for _, f := range []string{"dev/console", "etc/hosts", "etc/hostname", "etc/resolv.conf", ".dockerenv"} {
		must(s.t, os.WriteFile(filepath.Join(dir, f), nil, 0o755))
	}
	must(s.t, os.Symlink("/proc/mounts", filepath.Join(dir, "etc/mtab")))
}

// TestTheGuestSeesWhatTheEngineHasWritten compares the overlay that an engine has mounted with the one that the guest mounts.
func TestTheGuestSeesWhatTheEngineHasWritten(t *testing.T) {
	for name, options := range overlayOptions {
		for _, private := range []bool{false, true} {
			t.Run(fmt.Sprint(name, "-private-", private), func(t *testing.T) {
				s := newStore(t)
				s.layers(options)
				lowers := []string{"second", "base"}
				if private {
					s.dockerInit("c-init")
					lowers = append([]string{"c-init"}, lowers...)
				}
				s.add("c")
				merged := s.mount("c", options, lowers...)
				c := cache(t)
				image, number := bundleDisk(t, c, merged, cached)
				writeLikeAnEngine(t, merged, options != "")
				start, err := c.StartDisk(t.Context(), opened(t, merged), nil)
				must(t, err)
				defer start.Close()
				compareOverlays(t, merged, guestView(t, image, start))

				// Of another container the same lowers, with another private one, have the same disk.
				s.dockerInit("d-init")
				s.add("d")
				lowers = []string{"second", "base"}
				if private {
					lowers = append([]string{"d-init"}, lowers...)
				}
				if _, n := bundleDisk(t, c, s.mount("d", options, lowers...), cached); n != number {
					t.Error("the second container has an image disk of its own")
				}
			})
		}
	}
}

// writeLikeAnEngine does to a container's root what docker cp, and what else writes there before the first start, can do.
func writeLikeAnEngine(t *testing.T, root string, renames bool) {
	t.Helper()
	at := func(name string) string { return filepath.Join(root, name) }
	must(t, os.MkdirAll(at("etc/app"), 0o750), os.WriteFile(at("etc/app/config"), []byte("copied"), 0o640), os.Lchown(at("etc/app/config"), 33, 34),
		os.Link(at("etc/app/config"), at("linked2")), os.Remove(at("symlink")), os.RemoveAll(at("acl")), os.Mkdir(at("acl"), 0o700),
		os.Chmod(at("renamed"), 0o4711), os.RemoveAll(at("many")), os.WriteFile(at("many"), []byte("was a directory"), 0o600),
		unix.Mkfifo(at("pipe"), 0o600), os.RemoveAll(at("empty")), unix.Mknod(at("null2"), unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3))),
		os.Symlink("../../outside", at("etc/out")), os.WriteFile(at("capable"), []byte("program"), 0o755),
		unix.Setxattr(at("capable"), "security.capability", []byte(capability), 0), unix.Setxattr(at("etc"), "user.of-a-directory", []byte("v"), 0),
		os.Chmod(at("changed"), 0o640))
	if renames {
		must(t, os.Rename(at("shallow"), at("etc/shallow")), os.Rename(at("kept"), at("kept2")))
		must(t, os.WriteFile(at("kept2/new"), []byte("new"), 0o644))
	}
	sparse(t, at("big"), 3<<30, map[int64]string{2 << 30: "far"})
	if _, err := os.Lstat(at("proc")); err == nil {
		must(t, os.RemoveAll(at("proc")), os.Remove(at("etc/hosts")), os.RemoveAll(at("dev")), os.Mkdir(at("dev"), 0o755))
	}
}

// TestTheStartsDiskIsOfThatStart has more written between two starts.
func TestTheStartsDiskIsOfThatStart(t *testing.T) {
	s, c := newStore(t), cache(t)
	s.write(filepath.Join(s.add("base"), "old"), "old")
	s.add("c")
	merged := s.mount("c", "", "base")
	r := opened(t, merged)
	if d, err := c.StartDisk(t.Context(), r, nil); d != nil || err != nil {
		t.Errorf("there is a disk of nothing: %v, %v", d, err)
	}
	for i := range 2 {
		must(t, os.WriteFile(filepath.Join(merged, "new"), fmt.Append(nil, i), 0o644))
		d, err := c.StartDisk(t.Context(), r, nil)
		must(t, err)
		b, err := os.ReadFile(filepath.Join(mount(t, d.Path), guestapi.UpperDir, "new"))
		if string(b) != fmt.Sprint(i) {
			t.Errorf("%q: %v", b, err)
		}
		must(t, d.Opened(), d.Close())
	}
	want := filepath.Join(s.home, "c", "runcvm.ext4")
	if got := r.WritablePath("/own"); got != want {
		t.Errorf("the writable disk lies at %s, not beside the layer at %s", got, want)
	}
	if left, err := filepath.Glob(filepath.Join(c.dir, "private-*")); err != nil || len(left) > 0 {
		t.Errorf("left over: %q, %v", left, err)
	}
}

// TestSnapshotsAreKnown mounts as containerd does: absolute paths, a layer each by the newer way to mount, and one layer alone.
func TestSnapshotsAreKnown(t *testing.T) {
	home, c := t.TempDir(), cache(t)
	must(t, os.WriteFile(filepath.Join(home, "metadata.db"), nil, 0o600))
	snapshot := func(n int) string {
		dir := filepath.Join(home, "snapshots", fmt.Sprint(n))
		must(t, os.MkdirAll(filepath.Join(dir, "fs"), 0o755), os.MkdirAll(filepath.Join(dir, "work"), 0o711))
		return filepath.Join(dir, "fs")
	}
	must(t, os.WriteFile(filepath.Join(snapshot(1), "one"), []byte("1"), 0o644), os.WriteFile(filepath.Join(snapshot(2), "two"), []byte("2"), 0o644))
	at := t.TempDir()
	newMount(t, at, [][2]string{{"lowerdir+", snapshot(2)}, {"lowerdir+", snapshot(1)}, {"upperdir", snapshot(3)},
		{"workdir", filepath.Join(home, "snapshots/3/work")}})
	r := opened(t, at)
	if got := r.WritablePath("/own"); got != filepath.Join(home, "snapshots/3/runcvm.ext4") {
		t.Errorf("the writable disk lies at %s", got)
	}
	d, first := bundleDisk(t, c, at, cached)
	compareOverlays(t, at, guestView(t, d, nil))

	for _, tt := range []struct {
		flags    uintptr
		writable string
	}{{unix.MS_RDONLY, "/own"}, {0, filepath.Join(home, "snapshots/1/runcvm.ext4")}} {
		bind := t.TempDir()
		must(t, unix.Mount(snapshot(1), bind, "", unix.MS_BIND, ""), unix.Mount("", bind, "", unix.MS_BIND|unix.MS_REMOUNT|tt.flags, ""))
		t.Cleanup(func() { must(t, unix.Unmount(bind, 0)) })
		r := opened(t, bind)
		if got := r.WritablePath("/own"); got != tt.writable {
			t.Errorf("flags %d: the writable disk lies at %s", tt.flags, got)
		}
		d, number := bundleDisk(t, c, bind, cached)
		if number == first {
			t.Error("it is the disk of more layers")
		}
		if _, again := bundleDisk(t, c, bind, cached); again != number {
			t.Error("the second container has a disk of its own")
		}
		start, err := c.StartDisk(t.Context(), r, nil)
		must(t, err)
		compareOverlays(t, bind, guestView(t, d, start))
		if start != nil {
			must(t, start.Close())
		}
	}
}

// newMount mounts an overlay by fsconfig(2).
func newMount(t *testing.T, at string, options [][2]string) {
	t.Helper()
	fs, err := unix.Fsopen("overlay", 0)
	must(t, err)
	defer unix.Close(fs)
	for _, o := range options {
		if err := unix.FsconfigSetString(fs, o[0], o[1]); err != nil {
			if o[0] != "lowerdir+" || !errors.Is(err, unix.EINVAL) {
				t.Fatal(err)
			}
			// A kernel before 6.7 has no such option; there is one list.
			var lowers []string
			for _, l := range options {
				if l[0] == "lowerdir+" {
					lowers = append(lowers, l[1])
				}
			}
			must(t, unix.FsconfigSetString(fs, "lowerdir", strings.Join(lowers, ":")))
			for _, l := range options[len(lowers):] {
				must(t, unix.FsconfigSetString(fs, l[0], l[1]))
			}
			break
		}
	}
	must(t, unix.FsconfigCreate(fs))
	m, err := unix.Fsmount(fs, 0, 0)
	must(t, err, unix.MoveMount(m, "", unix.AT_FDCWD, at, unix.MOVE_MOUNT_F_EMPTY_PATH), unix.Close(m))
	t.Cleanup(func() { must(t, unix.Unmount(at, 0)) })
}

// TestManyLayersAreMounted has as many as Docker allows, and more than an old kernel takes in one option.
func TestManyLayersAreMounted(t *testing.T) {
	s, c := newStore(t), cache(t)
	var lowers []string
	for i := range 127 {
		id := fmt.Sprint(1000 + i)
		s.write(filepath.Join(s.add(id), "file-"+id), id)
		s.write(filepath.Join(s.at(id), "common"), id)
		lowers = append([]string{id}, lowers...)
	}
	s.add("c")
	merged := s.mount("c", "", lowers...)
	must(t, exec.Command("touch", "-r", s.at("1126"), s.at("c")).Run())
	d, _ := bundleDisk(t, c, merged, cached)
	compareOverlays(t, merged, guestView(t, d, nil))
}

func TestABundleRootThatIsNotThereIsNamed(t *testing.T) {
	_, err := OpenBundleRoot("/nonexistent/rootfs")
	if err == nil || !strings.Contains(err.Error(), "/nonexistent/rootfs") || strings.Contains(err.Error(), "no such file") || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v", err)
	}
}

// TestOnlyOneBuildsTheDisk has ten containers of new layers start at once.
func TestOnlyOneBuildsTheDisk(t *testing.T) {
	s, c := newStore(t), cache(t)
	s.write(filepath.Join(s.add("base"), "file"), "content")
	numbers := make(chan uint64, 10)
	for i := range 10 {
		id := fmt.Sprint("c", i)
		s.add(id)
		root := opened(t, s.mount(id, "", "base"))
		go func() {
			var st unix.Stat_t
			d, err := c.BundleDisk(context.Background(), root, cached)
			if err == nil {
				err = errors.Join(unix.Stat(d.Path, &st), d.Close())
			}
			if err != nil {
				t.Error(err)
			}
			numbers <- st.Ino
		}()
	}
	first := <-numbers
	for range 9 {
		if n := <-numbers; n != first {
			t.Error("there is more than one disk")
		}
	}
}

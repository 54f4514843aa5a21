package archive

import (
	"archive/tar"
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// made is a tar stream of these entries; a regular file's content is its name.
func made(t testing.TB, entries ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range entries {
		if h.Format == tar.FormatUnknown {
			h.Format = tar.FormatPAX
		}
		if h.Mode == 0 {
			h.Mode = 0o755
		}
		content := ""
		if h.Typeflag == tar.TypeReg && h.Size == 0 {
			content = "attack"
			h.Size = int64(len(content))
		}
		must(t, w.WriteHeader(&h))
		_, err := w.Write([]byte(content))
		must(t, err)
	}
	_ = w.Flush() // an entry may lack its content
	return b.Bytes()
}

func dir(name string) tar.Header  { return tar.Header{Typeflag: tar.TypeDir, Name: name} }
func file(name string) tar.Header { return tar.Header{Typeflag: tar.TypeReg, Name: name} }
func symlink(name, to string) tar.Header {
	return tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: to}
}
func hardlink(name, to string) tar.Header {
	return tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: to}
}

// attacks are archives that try to get out of dest/copy. Beside dest lie outside/secret and outside/dir, and in dest beside; in copy
// there are from before: a link out of it, evil -> ../../outside.
var attacks = map[string]struct {
	entries []tar.Header
	// err is part of the refusal; empty where the archive is taken, and harmless.
	err string
}{
	"absolute name":              {[]tar.Header{dir("."), file("/outside/secret")}, ""},
	"dots":                       {[]tar.Header{dir("."), file("../beside")}, "outside of the destination"},
	"dots inside":                {[]tar.Header{dir("."), file("a/../../../outside/secret")}, "outside of the destination"},
	"only dots":                  {[]tar.Header{dir("."), dir("..")}, "outside of the destination"},
	"another name first":         {[]tar.Header{file("beside")}, "instead of what was copied"},
	"something beside a file":    {[]tar.Header{file("."), file("beside")}, "beside what was copied"},
	"a second self":              {[]tar.Header{dir("."), file("a"), symlink(".", "/")}, "beside what was copied"},
	"below a file":               {[]tar.Header{file("."), file("./x")}, "beside what was copied"},
	"self is a link":             {[]tar.Header{symlink(".", "../outside"), file("secret")}, "beside what was copied"},
	"through its own link":       {[]tar.Header{dir("."), symlink("l", "../../outside"), file("l/secret")}, "symbolic link"},
	"through an absolute link":   {[]tar.Header{dir("."), symlink("l", "/"), file("l/tmp/x")}, "symbolic link"},
	"through a link inside":      {[]tar.Header{dir("."), dir("d"), symlink("l", "d"), file("l/x")}, "symbolic link"},
	"directory through a link":   {[]tar.Header{dir("."), symlink("l", "../../outside"), dir("l/dir/new")}, "symbolic link"},
	"directory over a link":      {[]tar.Header{dir("."), symlink("l", "../../outside"), dir("l")}, "cannot overwrite non-directory"},
	"a link from before":         {[]tar.Header{dir("."), file("evil/secret")}, "symbolic link"},
	"over a link from before":    {[]tar.Header{dir("."), file("evil")}, ""},
	"into a link from before":    {[]tar.Header{dir("."), dir("evil")}, "cannot overwrite non-directory"},
	"file over link, then write": {[]tar.Header{dir("."), symlink("x", "../../outside/secret"), file("x"), file("x")}, ""},
	"directory over a file":      {[]tar.Header{dir("."), file("x"), dir("x")}, "cannot overwrite non-directory"},
	"file over a directory":      {[]tar.Header{dir("."), dir("x"), file("x")}, "cannot overwrite directory"},
	"link over a directory":      {[]tar.Header{dir("."), dir("x"), symlink("x", "../../outside"), file("x/secret")}, "cannot overwrite directory"},
	"hard link out":              {[]tar.Header{dir("."), hardlink("x", "../../outside/secret")}, "outside of the destination"},
	"hard link, absolute":        {[]tar.Header{dir("."), hardlink("x", "/etc/passwd")}, "no such file"},
	"hard link beside":           {[]tar.Header{dir("."), hardlink("x", "../beside")}, "outside of the destination"},
	"hard link through a link":   {[]tar.Header{dir("."), symlink("l", "../../outside"), hardlink("x", "l/secret"), file("x")}, "symbolic link"},
	"hard link to a link":        {[]tar.Header{dir("."), symlink("l", "../../outside/secret"), hardlink("x", "l"), file("x")}, ""},
	"hard link to a directory":   {[]tar.Header{dir("."), dir("d"), hardlink("x", "d")}, "operation not permitted"},
	"mode of a link's target":    {[]tar.Header{dir("."), symlink("l", "../../outside/secret"), hardlink("x", "l")}, ""},
	"an impossible owner":        {[]tar.Header{dir("."), {Typeflag: tar.TypeReg, Name: "x", Uid: 1 << 40}}, "no such numbers"},
	"the owner that means none":  {[]tar.Header{dir("."), {Typeflag: tar.TypeReg, Name: "x", Uid: 1<<32 - 1}}, "no such numbers"},
	"a negative owner":           {[]tar.Header{dir("."), {Typeflag: tar.TypeReg, Name: "x", Gid: -1}}, "no such numbers"},
	"device numbers":             {[]tar.Header{dir("."), {Typeflag: tar.TypeChar, Name: "x", Devmajor: 1 << 33, Format: tar.FormatGNU}}, "no such device numbers"},
	"an unknown type":            {[]tar.Header{dir("."), {Typeflag: 'Z', Name: "x"}}, "unhandled tar header type 90"},
	"an endless file":            {[]tar.Header{dir("."), {Typeflag: tar.TypeReg, Name: "x", Size: 1 << 60}}, "unexpected EOF"},
	"a name too long":            {[]tar.Header{dir("."), file(strings.Repeat("d/", 3000) + "x")}, "more than 4096 bytes"},
	"a part too long":            {[]tar.Header{dir("."), file(strings.Repeat("d", 300))}, "file name too long"},
	"an empty link":              {[]tar.Header{dir("."), symlink("x", "")}, "no such file"},
	"nothing":                    {nil, "empty"},
	"a map that is none": {[]tar.Header{dir("."), {Typeflag: tar.TypeReg, Name: "x", PAXRecords: map[string]string{sizeRecord: "5"}}},
		"damaged"},
	"a size that is none": {[]tar.Header{dir("."), {Typeflag: tar.TypeReg, Name: "x", PAXRecords: map[string]string{sizeRecord: "-1"}}},
		"damaged"},
	"a size of too many digits": {[]tar.Header{dir("."), {Typeflag: tar.TypeReg, Name: "x",
		PAXRecords: map[string]string{sizeRecord: strings.Repeat("9", 30)}}}, "damaged"},
	"attributes of the system": {[]tar.Header{dir("."), {Typeflag: tar.TypeReg, Name: "x", PAXRecords: map[string]string{
		"SCHILY.xattr.trusted.overlay.opaque": "y", "SCHILY.xattr.security.selinux": "x", "SCHILY.xattr.system.posix_acl_access": "x"}}}, ""},
}

func arena(t testing.TB) (base, dest string) {
	t.Helper()
	base = t.TempDir()
	dest = filepath.Join(base, "dest")
	write(t, base+"/outside/secret", "secret", 0o600)
	write(t, base+"/outside/dir/file", "x", 0o600)
	write(t, dest+"/beside", "beside", 0o600)
	must(t, os.Mkdir(dest+"/copy", 0o755), os.Symlink("../../outside", dest+"/copy/evil"))
	// Of what lies outside nothing may change, not even a time; dest's own time does.
	past := time.Unix(1, 0)
	for _, p := range []string{"/outside/secret", "/outside/dir/file", "/outside/dir", "/outside", "/dest/beside"} {
		must(t, os.Chtimes(base+p, past, past))
	}
	return base, dest
}

// untouched describes what no archive may change: all but what is in dest/copy.
func untouched(t testing.TB, base string) string {
	t.Helper()
	return describe(t, base+"/outside") + describe(t, base+"/dest/beside")
}

func TestNoArchiveGetsOut(t *testing.T) {
	for name, a := range attacks {
		t.Run(name, func(t *testing.T) {
			base, dest := arena(t)
			before := untouched(t, base)
			into := "copy"
			if len(a.entries) > 0 && a.entries[0].Typeflag != tar.TypeDir {
				into = "new"
			}
			err := unpack(t, made(t, a.entries...), dest, into, true)
			if a.err == "" && err != nil || a.err != "" && (err == nil || !strings.Contains(err.Error(), a.err)) {
				t.Errorf("it says %v, not %q", err, a.err)
			}
			checkContained(t, base, before)
		})
	}
}

// checkContained fails the test where something outside of dest/copy has changed.
func checkContained(t testing.TB, base, before string) {
	t.Helper()
	if after := untouched(t, base); after != before {
		t.Errorf("outside it was\n%s\nand is\n%s", before, after)
	}
	for dir, want := range map[string]string{base: "dest outside", base + "/dest": "beside copy new"} {
		names, err := os.ReadDir(dir)
		must(t, err)
		for _, n := range names {
			if !strings.Contains(want, n.Name()) {
				t.Errorf("%s has %v", dir, names)
			}
		}
	}
}

func TestASparseBombTakesNoRoom(t *testing.T) {
	_, dest := arena(t)
	h := tar.Header{Typeflag: tar.TypeReg, Name: "x", Size: 4, PAXRecords: map[string]string{sizeRecord: "1099511627776"}}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	self := dir(".")
	must(t, w.WriteHeader(&self), w.WriteHeader(&h))
	_, err := w.Write([]byte{0, 0, 0, 0})
	must(t, err, w.Close())
	must(t, unpack(t, b.Bytes(), dest, "copy", true))
	var st unix.Stat_t
	must(t, unix.Stat(dest+"/copy/x", &st))
	if st.Size != 1<<40 || st.Blocks > 8 {
		t.Errorf("%d bytes in %d blocks", st.Size, st.Blocks)
	}
}

func TestDirectoriesWithoutEndTakeNoMemory(t *testing.T) {
	for name, entries := range map[string][]tar.Header{
		"many":                {dir("."), dir("a"), dir("b"), dir("c")},
		"one again and again": {dir("."), dir("a"), dir("a"), dir("a")},
		"with attributes": {dir("."),
			{Typeflag: tar.TypeDir, Name: "a", PAXRecords: map[string]string{xattrPrefix + "user.x": strings.Repeat("x", 2000)}}},
	} {
		_, dest := arena(t)
		u := Unpacker{Tree: Tree{Root: openPath(t, dest, 0)}, Dir: ".", Name: "copy", dirsSize: maxDirectories - 1800}
		err := u.Unpack(t.Context(), bytes.NewReader(made(t, entries...)))
		if err == nil || !strings.Contains(err.Error(), "more directories") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestInAContainerLinksLeadToTheContainersOwn has the other mode: links are followed, as by a process whose root the tree is.
func TestInAContainerLinksLeadToTheContainersOwn(t *testing.T) {
	base, root := arena(t)
	before := describe(t, base+"/outside")
	must(t, os.MkdirAll(root+"/usr/lib", 0o755), os.Mkdir(root+"/outside", 0o755), os.Symlink("/usr/lib", root+"/lib"),
		os.Symlink("../../../../../../outside", root+"/up"))
	u := Unpacker{Tree: Tree{Root: openPath(t, root, 0), FollowLinks: true}, Dir: "/", Owner: &Owner{}}
	must(t, u.Unpack(t.Context(), bytes.NewReader(made(t, file("lib/x"), file("/copy/evil/secret"), file("up/y")))))
	for _, path := range []string{"/usr/lib/x", "/outside/secret", "/outside/y"} {
		if b, err := os.ReadFile(root + path); string(b) != "attack" {
			t.Errorf("%s: %q, %v", path, b, err)
		}
	}
	if after := describe(t, base+"/outside"); after != before {
		t.Errorf("outside is now\n%s", after)
	}
}

// TestAContainerThatSwapsDirectoriesGainsNothing copies into and out of a tree in which somebody replaces directories by links.
func TestAContainerThatSwapsDirectoriesGainsNothing(t *testing.T) {
	base, root := arena(t)
	must(t, os.Mkdir(root+"/d", 0o755))
	before := describe(t, base+"/outside")
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
			}
			_ = os.Rename(root+"/d", root+"/e")
			_ = os.Symlink("../outside", root+"/d")
			_ = os.Symlink(base+"/outside", root+"/f")
			_ = os.Rename(root+"/f", root+"/d")
			_ = os.Remove(root + "/d")
			_ = os.Rename(root+"/e", root+"/d")
		}
	}()
	archive := made(t, dir("d"), file("d/secret"), dir("d/dir"), file("d/dir/file"))
	for range 300 {
		u := Unpacker{Tree: Tree{Root: openPath(t, root, 0), FollowLinks: true}, Dir: "/", Owner: &Owner{}}
		_ = u.Unpack(t.Context(), bytes.NewReader(archive)) // it may well fail
		u.Tree.Root.Close()
		var b bytes.Buffer
		source := openPath(t, root, 0)
		_, _ = (&Packer{}).Pack(t.Context(), &b, source)
		source.Close()
		if bytes.Contains(b.Bytes(), []byte("secret\x00\x00")) && bytes.Contains(b.Bytes(), []byte("secretsecret")) {
			t.Fatal("read from outside")
		}
	}
	close(stop)
	<-stopped
	if after := describe(t, base+"/outside"); after != before {
		t.Errorf("outside is now\n%s", after)
	}
}

// FuzzUnpack has any bytes for an archive.
func FuzzUnpack(f *testing.F) {
	for _, a := range attacks {
		f.Add(made(f, a.entries...))
	}
	b, _ := pack(f, full(f))
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		base, dest := arena(t)
		before := untouched(t, base)
		_ = unpack(t, b, dest, "copy", true)
		checkContained(t, base, before)
	})
}

package enginefile

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

const (
	oldPath = "/opt/old/runcvm"
	newPath = "/usr/bin/runcvm"
)

// entry is what Install writes, in the form of a new file.
const dockerNew = `{
  "runtimes": {
    "runcvm": {
      "path": "/usr/bin/runcvm"
    }
  }
}
`

const podmanNew = heading + "\n[engine.runtimes]\nruncvm = [\"/usr/bin/runcvm\"]\n"

// cases are files before and after an Install. back is what Uninstall leaves where that is not the file before.
var cases = []struct {
	name, before, after string
	engine              Engine
	back                string
}{
	{"an empty file", "", dockerNew, Docker, gone},
	{"white space", " \n", dockerNew, Docker, gone},
	{"an empty object", "{}", strings.TrimSuffix(dockerNew, "\n"), Docker, gone},
	{"an empty object over lines", "{\n}\n", dockerNew, Docker, gone},
	{"four spaces", `{
    "log-driver": "journald",

    "dns": ["10.0.0.1", "10.0.0.2"]
}
`, `{
    "log-driver": "journald",

    "dns": ["10.0.0.1", "10.0.0.2"],
    "runtimes": {
        "runcvm": {
            "path": "/usr/bin/runcvm"
        }
    }
}
`, Docker, ""},
	{"tabs and Windows' lines", "{\r\n\t\"debug\": true\r\n}\r\n",
		"{\r\n\t\"debug\": true,\r\n\t\"runtimes\": {\r\n\t\t\"runcvm\": {\r\n\t\t\t\"path\": \"/usr/bin/runcvm\"\r\n\t\t}\r\n\t}\r\n}\r\n",
		Docker, ""},
	{"one line", `{"debug":true,"mtu":1400}`, `{"debug":true,"mtu":1400,"runtimes":{"runcvm":{"path":"/usr/bin/runcvm"}}}`, Docker, ""},
	{"one line with spaces", "{ \"debug\": true }\n", "{ \"debug\": true, \"runtimes\": {\"runcvm\": {\"path\": \"/usr/bin/runcvm\"}} }\n",
		Docker, ""},
	{"other runtimes, and a key behind", `{
  "runtimes": {
    "kata": {
      "path": "/usr/bin/kata-runtime", "runtimeArgs": ["--x"]
    }
  },
  "storage-driver": "overlay2"
}`, `{
  "runtimes": {
    "kata": {
      "path": "/usr/bin/kata-runtime", "runtimeArgs": ["--x"]
    },
    "runcvm": {
      "path": "/usr/bin/runcvm"
    }
  },
  "storage-driver": "overlay2"
}`, Docker, ""},
	{"other runtimes on one line", "{\n  \"runtimes\": {\"crun-vm\": {\"path\": \"/a\"}}\n}\n",
		"{\n  \"runtimes\": {\"crun-vm\": {\"path\": \"/a\"}, \"runcvm\": {\"path\": \"/usr/bin/runcvm\"}}\n}\n", Docker, ""},
	{"null", "{\n  \"runtimes\": null,\n  \"a\": 1\n}\n", "{\n  \"runtimes\": {\n    \"runcvm\": {\n      \"path\": \"/usr/bin/runcvm\"\n    }\n  },\n  \"a\": 1\n}\n",
		Docker, "{\n  \"a\": 1\n}\n"},
	{"an object without members", "{\n  \"runtimes\": {},\n  \"a\": 1\n}\n", "{\n  \"runtimes\": {\n    \"runcvm\": {\n      \"path\": \"/usr/bin/runcvm\"\n    }\n  },\n  \"a\": 1\n}\n",
		Docker, "{\n  \"a\": 1\n}\n"},
	{"a byte order mark", "\xef\xbb\xbf{\"a\": 1}", "\xef\xbb\xbf{\"a\": 1, \"runtimes\": {\"runcvm\": {\"path\": \"/usr/bin/runcvm\"}}}", Docker, ""},

	{"an empty file", "", podmanNew, Podman, gone},
	{"other tables", "# mine\n[engine]\nruntime = \"crun\" # the best\n\n[network]\n",
		"# mine\n[engine]\nruntime = \"crun\" # the best\n\n[network]\n\n" + podmanNew, Podman, ""},
	{"no end of line", "[engine]", "[engine]\n\n" + podmanNew, Podman, "[engine]\n"},
	{"a table of runtimes", "[engine]\na = 1\n[ engine.runtimes ] # all\nkata = [\n  \"/usr/bin/kata\", # one\n]\n[network]\nb = 2\n",
		"[engine]\na = 1\n[ engine.runtimes ] # all\nruncvm = [\"/usr/bin/runcvm\"]\nkata = [\n  \"/usr/bin/kata\", # one\n]\n[network]\nb = 2\n",
		Podman, ""},
}

// gone is no file.
const gone = "\x00"

func plan(t *testing.T, e Engine, file string) *Change {
	t.Helper()
	c, err := e.Install(Options{File: file, Program: newPath})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func uninstall(t *testing.T, e Engine, file string) {
	t.Helper()
	changes, err := e.Uninstall(Options{File: file, Program: newPath})
	if err != nil || len(changes) != 1 {
		t.Fatal(changes, err)
	}
	if err := changes[0].Apply(); err != nil {
		t.Fatal(err)
	}
}

func content(t *testing.T, file string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		return gone
	}
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func put(t *testing.T, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestInstallKeepsWhatIsThereAndUninstallTakesOutItsOwn(t *testing.T) {
	for _, c := range cases {
		t.Run(c.engine.Name+"/"+c.name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "config")
			put(t, file, c.before)
			change := plan(t, c.engine, file)
			if string(change.After) != c.after {
				t.Fatalf("installed it is\n%s\nwant\n%s", change.After, c.after)
			}
			if content(t, file) != c.before {
				t.Error("a plan has changed the file")
			}
			if err := change.Apply(); err != nil {
				t.Fatal(err)
			}
			if again := plan(t, c.engine, file); !again.Empty() || again.Diff() != "" {
				t.Errorf("a second install is\n%s", again.Diff())
			}
			if change.Empty() || change.Diff() == "" {
				t.Error("the first install is shown as nothing")
			}
			uninstall(t, c.engine, file)
			want := c.back
			if want == "" {
				want = c.before
			}
			if got := content(t, file); got != want {
				t.Errorf("uninstalled it is\n%s\nwant\n%s", got, want)
			}
			if changes, err := c.engine.Uninstall(Options{File: file, Program: newPath}); err != nil || len(changes) != 0 {
				t.Errorf("a second uninstall is %v, %v", changes, err)
			}
		})
	}
}

func TestAnotherPathTakesTheOldOnesPlace(t *testing.T) {
	for _, c := range cases {
		file := filepath.Join(t.TempDir(), "config")
		put(t, file, strings.Replace(c.after, newPath, oldPath, 1))
		if got := string(plan(t, c.engine, file).After); got != c.after {
			t.Errorf("%s, %s: it is\n%s\nwant\n%s", c.engine.Name, c.name, got, c.after)
		}
	}
	file := filepath.Join(t.TempDir(), "daemon.json")
	put(t, file, `{"runtimes": {"runcvm": {"runtimeArgs": ["--debug"], "path": "/opt/old/runcvm"}}}`)
	if got := string(plan(t, Docker, file).After); got != `{"runtimes": {"runcvm": {"runtimeArgs": ["--debug"], "path": "/usr/bin/runcvm"}}}` {
		t.Errorf("with arguments: %s", got)
	}
}

func TestWhatCannotBeDoneIsAnErrorAndLeavesTheFile(t *testing.T) {
	for _, c := range []struct {
		engine             Engine
		text, in, out, say string
	}{
		{Docker, "{\n \"a\": 1,\n}", "line 3", "line 3", "was left as it is"},
		{Docker, "// a comment\n{}", "line 1", "line 1", "was left as it is"},
		{Docker, "[]", "no JSON object", "no JSON object", ""},
		{Docker, `{"runtimes": ["runcvm"]}`, "runtimes is no object", "runtimes is no object", ""},
		{Docker, `{"runtimes": {}, "runtimes": {}}`, `"runtimes" is there twice`, "there twice", ""},
		{Docker, `{"runtimes": {"runcvm": {}, "runcvm": {}}}`, "there twice in runtimes", "there twice", ""},
		{Docker, `{"runtimes": {"runcvm": {"path": "/usr/bin/other"}}}`, "--name", "not runcvm", "/usr/bin/other"},
		{Docker, `{"runtimes": {"runcvm": {"runtimeType": "x"}}}`, "--name", "not runcvm", ""},
		{Docker, `{"runtimes": {"runcvm": {"path": "/usr/bin/runcvm"}}, "default-runtime": "runcvm"}`, "", "default", ""},
		{Docker, `{"runtimes": {"runcvm": {"path": "/usr/bin/runcvm", "runtimeArgs": []}}}`, "", "by hand", ""},
		{Podman, "[engine\n", "line 2", "line 2", "was left as it is"},
		{Podman, "[engine.runtimes]\nruncvm = [\"/a/other\"]\n", "--name", "not runcvm", "/a/other"},
		{Podman, "[engine]\nruntime = \"runcvm\"\n[engine.runtimes]\nruncvm = [\"/usr/bin/runcvm\"]\n", "", "default", ""},
		{Podman, "[engine]\nruntimes = {kata = [\"/k\"]}\n", "by hand", "", ""},
		{Podman, "[engine]\nruntimes.kata = [\"/k\"]\n", "by hand", "", ""},
		{Podman, "[engine]\nruntimes = {runcvm = [\"/usr/bin/runcvm\"]}\n", "", "by hand", ""},
	} {
		file := filepath.Join(t.TempDir(), "config")
		put(t, file, c.text)
		o := Options{File: file, Program: newPath}
		_, in := c.engine.Install(o)
		_, out := c.engine.Uninstall(o)
		for _, e := range []struct {
			err  error
			want string
		}{{in, c.in}, {out, c.out}} {
			if e.want == "" && e.err != nil {
				t.Errorf("%q: %v", c.text, e.err)
			}
			if e.want != "" && (e.err == nil || !strings.Contains(e.err.Error(), e.want) || !strings.Contains(e.err.Error(), c.say) ||
				!strings.Contains(e.err.Error(), file)) {
				t.Errorf("%q: %v, want %q and %q", c.text, e.err, e.want, c.say)
			}
		}
		if content(t, file) != c.text {
			t.Errorf("%q was changed", c.text)
		}
	}
	for _, o := range []Options{{Program: "runcvm"}, {Program: newPath, Name: "a b"}, {Program: newPath, Name: "-x"}, {Program: newPath, Name: "runc"}} {
		o.Root = t.TempDir()
		if _, err := Docker.Install(o); err == nil {
			t.Errorf("%+v is taken", o)
		}
	}
}

func TestTheFileKeepsItsModeOwnerAttributesAndLink(t *testing.T) {
	dir := t.TempDir()
	file, link := filepath.Join(dir, "real.json"), filepath.Join(dir, "daemon.json")
	put(t, file, "{}\n")
	if err := os.Chmod(file, 0o640); err != nil {
		t.Fatal(err)
	}
	uid, gid := os.Getuid(), os.Getgid()
	if uid == 0 {
		uid, gid = 1234, 5678
		if err := os.Chown(file, uid, gid); err != nil {
			t.Fatal(err)
		}
	}
	attributes := unix.Setxattr(file, "user.note", []byte("mine"), 0) == nil // where the file system has them
	if err := os.Symlink("real.json", link); err != nil {
		t.Fatal(err)
	}
	check := func() {
		t.Helper()
		info, err := os.Lstat(file)
		if err != nil {
			t.Fatal(err)
		}
		st, ok := info.Sys().(*syscall.Stat_t)
		if !ok || info.Mode() != 0o640 || int(st.Uid) != uid || int(st.Gid) != gid {
			t.Errorf("it is %v of %d:%d", info.Mode(), st.Uid, st.Gid)
		}
		value := make([]byte, 16)
		if n, err := unix.Getxattr(file, "user.note", value); attributes && (err != nil || string(value[:n]) != "mine") {
			t.Errorf("its attribute is %q, %v", value[:max(n, 0)], err)
		}
		if to, err := os.Readlink(link); err != nil || to != "real.json" {
			t.Errorf("the link leads to %q, %v", to, err)
		}
		if entries, err := os.ReadDir(dir); err != nil || len(entries) != 2 {
			t.Errorf("there are %v, %v", entries, err)
		}
	}
	if err := plan(t, Docker, link).Apply(); err != nil {
		t.Fatal(err)
	}
	check()
	uninstall(t, Docker, link)
	check()
	if got := content(t, file); got != "{}\n" {
		t.Errorf("behind a link is left %q", got)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if _, err := Docker.Install(Options{File: link, Program: newPath}); err == nil || !strings.Contains(err.Error(), link) {
		t.Errorf("a link to nothing: %v", err)
	}
}

func TestAFileThatChangesMeanwhileIsLeft(t *testing.T) {
	file := filepath.Join(t.TempDir(), "daemon.json")
	put(t, file, "{}\n")
	c := plan(t, Docker, file)
	put(t, file, "{\"debug\": true}\n")
	if err := c.Apply(); err == nil || content(t, file) != "{\"debug\": true}\n" {
		t.Errorf("%v: %s", err, content(t, file))
	}
}

func TestWithoutAFileItsPlaceIsMade(t *testing.T) {
	for _, e := range Engines {
		root := t.TempDir()
		c, err := e.Install(Options{Root: root, Program: newPath})
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(c.Diff(), "--- "+os.DevNull+"\n") {
			t.Errorf("the diff is\n%s", c.Diff())
		}
		if err := c.Apply(); err != nil {
			t.Fatal(err)
		}
		found, err := e.Runtimes(root)
		if want := (Runtime{Name: DefaultName, Path: newPath, File: c.File, Plain: true}); err != nil || len(found) != 1 || found[0] != want {
			t.Errorf("%s has %+v, %v", e.Name, found, err)
		}
		if info, err := os.Stat(c.File); err != nil || info.Mode() != 0o644 {
			t.Errorf("%v, %v", info.Mode(), err)
		}
		changes, err := e.Uninstall(Options{Root: root, Program: newPath})
		if err != nil || len(changes) != 1 || changes[0].Apply() != nil || content(t, c.File) != gone {
			t.Errorf("%s: %v, %v", e.Name, changes, err)
		}
	}
}

func FuzzInstall(f *testing.F) {
	for _, c := range cases {
		f.Add(c.before, c.engine.Name == "docker")
	}
	f.Fuzz(func(t *testing.T, text string, docker bool) {
		e := Podman
		if docker {
			e = Docker
		}
		before, err := e.read([]byte(text))
		if err != nil {
			return
		}
		after, err := e.set([]byte(text), "vm", newPath)
		if err != nil || contains(before, "vm") {
			return
		}
		have, err := e.read(after)
		if err != nil || len(have) != len(before)+1 || !contains(have, "vm") {
			t.Fatalf("%q became %q: %v, %v", text, after, have, err)
		}
		back, err := e.remove(after, "vm")
		if err != nil {
			t.Fatalf("%q cannot be taken out: %v", after, err)
		}
		if left, err := e.read(back); err != nil || len(left) != len(before) {
			t.Fatalf("%q became %q: %v, %v", after, back, left, err)
		}
	})
}

func contains(all []Runtime, name string) bool {
	for _, r := range all {
		if r.Name == name {
			return true
		}
	}
	return false
}

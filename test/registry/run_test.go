//go:build e2e

package registry

import (
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/validate"

	"github.com/runcvm/runcvm/test/harness"
)

func copyBody(w io.Writer, resp *http.Response) (int64, error) { return io.Copy(w, resp.Body) }

func TestRunPullsWhatIsMissing(t *testing.T) {
	t.Parallel()
	p := newProxy(t)
	path := must(layout.FromPath(os.Getenv("RUNCVM_TEST_IMAGE")))(t)
	index := must(path.ImageIndex())(t)
	img := must(index.Image(must(index.IndexManifest())(t).Manifests[0].Digest))(t)
	push(t, img, "debian:12")
	h, name := loggedIn(t, p.Host), p.Host+"/debian:12"

	for _, c := range []struct {
		args  []string
		words string
	}{
		{[]string{"--pull", "never", name, "true"}, "not found"},
		{[]string{"--pull", "sometimes", name, "true"}, "is none of missing, always, never"},
		{[]string{p.Host + "/debian:nosuch", "true"}, "404 Not Found"},
		{[]string{"Debian:12", "true"}, "must be lowercase"},
	} {
		if r := h.Run(append([]string{"run", "--rm"}, c.args...)...); r.Code != 125 || !strings.Contains(r.Stderr, c.words) {
			t.Errorf("run %q: %+v", c.args, r)
		}
	}
	p.forget()
	r := h.Run("run", "--rm", name, "sh", "-c", "echo out; echo err >&2; exit 3")
	if r.Code != 3 || r.Stdout != "out\n" || !strings.HasSuffix(r.Stderr, "err\n") {
		t.Errorf("%+v", r)
	}
	if want := "Unable to find image '" + name + "' locally\n12: Pulling from " + p.Host + "/debian\n"; !strings.HasPrefix(r.Stderr, want) {
		t.Errorf("standard error does not begin with %q: %q", want, r.Stderr)
	}
	whole(t, h, name, img)

	// What follows ends before a guest would boot, for want of a VMM.
	h.Env = append(h.Env, "RUNCVM_VMM=/nonexistent")
	for _, c := range []struct {
		args      []string
		manifests int
	}{
		{[]string{}, 0},
		{[]string{"--pull", "always", "-q"}, 1},
		{[]string{"--platform", "linux/" + must(img.ConfigFile())(t).Architecture}, 0},
	} {
		p.forget()
		args := append(append([]string{"run", "--rm"}, c.args...), name, "true")
		if r := h.Run(args...); r.Code != 125 || !strings.Contains(r.Stderr, "/nonexistent") || strings.Contains(r.Stderr, "Pull") {
			t.Errorf("%q: %+v", args, r)
		}
		if n := len(p.requests("/manifests/")); n != c.manifests || len(p.requests("/blobs/")) > 0 {
			t.Errorf("%q: the registry had %+v", args, p.requests(""))
		}
	}
}

func TestSavedImagesAreTheSameAgain(t *testing.T) {
	t.Parallel()
	host := startServer(t)
	one, two := hostImage(t, 60, 100_000, 1000), hostImage(t, 61, 5000)
	push(t, one, "saved/one:1")
	push(t, two, "saved/t:latest")
	h := loggedIn(t, host)
	first, second := host+"/saved/one:1", host+"/saved/t"
	pull(t, h, first)
	pull(t, h, second)
	dir := t.TempDir()

	// As a file, as a directory, and through a pipe.
	file, tree, piped := filepath.Join(dir, "one.tar"), filepath.Join(dir, "tree")+"/", filepath.Join(dir, "piped.tar")
	h.MustRun("save", "-o", file, first)
	h.MustRun("save", "-o", tree, first)
	if err := os.WriteFile(piped, []byte(h.MustRun("save", first)), 0o600); err != nil {
		t.Fatal(err)
	}
	if string(must(os.ReadFile(piped))(t)) != string(must(os.ReadFile(file))(t)) {
		t.Error("the tar is another through a pipe")
	}
	for _, path := range []string{file, tree, piped} {
		other := harness.NewEmpty(t)
		other.MustRun("import", path)
		if got, want := digestOf(t, other, first), must(one.Digest())(t).String(); got != want {
			t.Errorf("import %s: digest %q instead of %s", path, got, want)
		}
	}
	// What others make of it.
	index := must(must(layout.FromPath(tree))(t).ImageIndex())(t)
	if err := validate.Index(index); err != nil {
		t.Error(err)
	}
	h.MustRun("save", "-o", filepath.Join(dir, "both.tar"), first, second)
	other := harness.NewEmpty(t)
	other.MustRun("import", filepath.Join(dir, "both.tar"), second)
	if got, want := digestOf(t, other, second+":latest"), must(two.Digest())(t).String(); got != want {
		t.Errorf("import of one of two: digest %q instead of %s", got, want)
	}

	h.MustRun("tag", first, "mine:2")
	if got, want := digestOf(t, h, "mine:2"), must(one.Digest())(t).String(); got != want {
		t.Errorf("tag: digest %q instead of %s", got, want)
	}
	h.MustRun("rmi", first)
	whole(t, h, "mine:2", one)

	for args, word := range map[string]string{
		"save -o " + tree + " mine:2":                    "the directory is not empty",
		"save -o " + filepath.Join(dir, "x") + " nosuch": "not found",
		"save -o /nonexistent/x.tar mine:2":              "/nonexistent",
	} {
		if r := h.Run(strings.Fields(args)...); r.Code != 1 || !strings.Contains(r.Stderr, word) {
			t.Errorf("%s: %+v", args, r)
		}
	}
	if left := must(filepath.Glob(filepath.Join(dir, "*.part")))(t); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
	cmd := h.Command("save", "mine:2")
	script := exec.Command("script", "-qefc", shellWords(cmd.Args), "/dev/null")
	script.Env = cmd.Env
	if out, err := script.CombinedOutput(); err == nil || !strings.Contains(string(out), "standard output is a terminal") {
		t.Errorf("to a terminal: %v: %q", err, out)
	}
}

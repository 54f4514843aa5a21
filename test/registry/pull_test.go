//go:build e2e

package registry

import (
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/runcvm/runcvm/test/harness"
)

func TestPullByTagAndByDigest(t *testing.T) {
	t.Parallel()
	host := startServer(t)
	img := hostImage(t, 1, 1<<20, 300_000, 10)
	push(t, img, "some/image:1.0")
	h := loggedIn(t, host)
	name := host + "/some/image"

	r := h.Run("pull", name+":1.0")
	if r.Code != 0 || r.Stdout != name+":1.0\n" {
		t.Fatalf("exit code %d, output %q: %s", r.Code, r.Stdout, r.Stderr)
	}
	d := must(img.Digest())(t).String()
	for _, want := range []string{"1.0: Pulling from " + name, ": Pull complete", "Digest: " + d, "Status: Downloaded newer image for " + name + ":1.0"} {
		if !strings.Contains(r.Stderr, want) {
			t.Errorf("standard error does not have %q: %s", want, r.Stderr)
		}
	}
	whole(t, h, name+":1.0", img)
	if again := pull(t, h, name+":1.0"); !strings.Contains(again, "Status: Image is up to date for "+name+":1.0") {
		t.Errorf("a second pull says %q", again)
	}
	if r := h.Run("pull", "-q", name+"@"+d); r.Code != 0 || r.Stderr != "" || r.Stdout != name+"@"+d+"\n" {
		t.Errorf("quiet pull by digest: %+v", r)
	}
	whole(t, h, name+"@"+d, img)

	other := loggedIn(t, host)
	pull(t, other, name+":1.0@"+d)
	whole(t, other, name+"@"+d, img)
	// The registry's tag moves on; the local one does too, with the next pull.
	next := hostImage(t, 2, 1000)
	push(t, next, "some/image:1.0")
	if moved := pull(t, h, name+":1.0"); !strings.Contains(moved, "Downloaded newer image") {
		t.Errorf("a pull of a moved tag says %q", moved)
	}
	whole(t, h, name+":1.0", next)
	whole(t, h, name+"@"+d, img)
}

func TestNamesAreDockers(t *testing.T) {
	t.Parallel()
	h := newHost(t, "", "")
	for name, word := range map[string]string{
		"Debian":                             "repository name (library/Debian) must be lowercase",
		"debian:":                            "invalid reference format",
		"debian@sha256:12":                   "invalid reference format",
		"de bian":                            "invalid reference format",
		strings.Repeat("0a", 32):             "64 hexadecimal digits",
		"-x.example/repo":                    "",
		"debian:" + strings.Repeat("x", 129): "tag",
	} {
		args := []string{"pull", "--", name}
		if r := h.Run(args...); r.Code != 1 || !strings.Contains(r.Stderr, word) {
			t.Errorf("%s: %+v", name, r)
		}
	}
}

func TestZstdLayersAndLayersThatAreTheSame(t *testing.T) {
	t.Parallel()
	host := startServer(t)
	same := newLayer(t, "same", noise(31, 200_000))
	img := newImage(t, runtime.GOARCH, newLayer(t, "a", noise(30, 500_000), zstd...), same, newLayer(t, "b", []byte(strings.Repeat("b", 1<<20)), zstd...), same)
	push(t, img, "zstd:1")
	h := loggedIn(t, host)
	pull(t, h, host+"/zstd:1")
	whole(t, h, host+"/zstd:1", img)
	// The disk that was built as the layers came is the one that would be built of them later.
	disk := must(filepath.Glob(filepath.Join(h.DataDir, "disks", "*.erofs")))(t)
	if out, err := exec.Command("fsck.erofs", disk[0]).CombinedOutput(); err != nil {
		t.Errorf("fsck.erofs: %v: %s", err, out)
	}
}

func TestThePlatformIsChosen(t *testing.T) {
	t.Parallel()
	host := startServer(t)
	here, there := hostImage(t, 3, 1000), newImage(t, "s390x", newLayer(t, "file", noise(48, 1000)))
	attestation := newImage(t, "unknown", newLayer(t, "file", noise(49, 10)))
	add := func(img v1.Image, os, architecture string) mutate.IndexAddendum {
		return mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: os, Architecture: architecture}}}
	}
	index := mutate.AppendManifests(mutate.IndexMediaType(empty.Index, types.OCIImageIndex), add(attestation, "unknown", "unknown"),
		add(there, "linux", "s390x"), add(here, "linux", runtime.GOARCH))
	push(t, index, "multi:1")
	push(t, there, "single:1")
	name := host + "/multi:1"

	h := loggedIn(t, host)
	said := pull(t, h, name)
	if d := must(index.Digest())(t).String(); !strings.Contains(said, "Digest: "+d) {
		t.Errorf("the index's digest %s is not in %q", d, said)
	}
	whole(t, h, name, here)
	// By the index's digest it is the same image, and there already.
	env := h.Env
	h.Env = append(slices.Clone(env), "RUNCVM_VMM=/nonexistent")
	if r := h.Run("run", "--rm", "--pull", "never", host+"/multi@"+must(index.Digest())(t).String(), "true"); !strings.Contains(r.Stderr, "/nonexistent") {
		t.Errorf("run by the index's digest: %+v", r)
	}
	h.Env = env
	pull(t, h, "--platform", "linux/s390x", name)
	if got := digestOf(t, h, name); got != must(there.Digest())(t).String() {
		t.Errorf("--platform took %s", got)
	}
	for _, c := range []struct {
		args []string
		code int
		word string
	}{
		{[]string{"run", "--pull", "never", name, "true"}, 125, "the image is for linux/s390x, and guests here are linux/" + runtime.GOARCH},
		{[]string{"run", "--platform", "linux/s390x", name, "true"}, 125, "--platform linux/s390x: guests here are"},
		{[]string{"pull", "--platform", "linux/riscv64", name}, 1, "there is no image for linux/riscv64; there are linux/s390x, linux/" + runtime.GOARCH},
		{[]string{"pull", "--platform", "a/b/c/d", name}, 1, "platform"},
		{[]string{"pull", host + "/single:1"}, 1, "the image is for linux/s390x, not for linux/" + runtime.GOARCH},
	} {
		if r := h.Run(c.args...); r.Code != c.code || !strings.Contains(r.Stderr, c.word) {
			t.Errorf("%q: %+v", c.args, r)
		}
	}
}

func TestAMirrorIsAskedFirst(t *testing.T) {
	t.Parallel()
	origin, mirror := newProxy(t), newProxy(t)
	img := hostImage(t, 4, 100_000, 1000)
	push(t, img, "cached/team/app:1")
	push(t, img, "team/app:1")
	h := loggedIn(t, origin.Host, mirror.Host)
	h.Env = append(h.Env, "RUNCVM_REGISTRY_MIRRORS="+origin.Host+"=http://"+mirror.Host+"/cached")
	if shown := h.MustRun("config", "show"); !strings.Contains(shown, mirror.Host+"/cached") {
		t.Errorf("config show does not have the mirror: %s", shown)
	}
	name := origin.Host + "/team/app:1"
	pull(t, h, name)
	whole(t, h, name, img)
	if n := len(origin.requests("")); n > 0 {
		t.Errorf("the registry itself had %d requests", n)
	}
	for _, d := range blobs(t, img) {
		if n := len(mirror.requests("/v2/cached/team/app/blobs/" + d)); n != 1 {
			t.Errorf("the mirror had %d requests for %s", n, d)
		}
	}

	// A mirror that fails is passed over, at the manifest or at a blob.
	for path, fits := range map[string]func() bool{
		"/manifests/": func() bool { return len(origin.requests("/manifests/")) == 1 },
		"/blobs/":     func() bool { return len(origin.requests("/manifests/")) == 0 && len(origin.requests("/blobs/")) > 0 },
	} {
		h.MustRun("rmi", name)
		origin.forget()
		mirror.forget()
		mirror.on(&fault{Path: path, Answer: status(http.StatusNotFound, "NAME_UNKNOWN", "not cached")})
		if said := pull(t, h, name); !strings.Contains(said, "trying "+origin.Host) {
			t.Errorf("nothing is said of the mirror's failure: %q", said)
		}
		if !fits() {
			t.Errorf("%s: the registry had %v", path, origin.requests(""))
		}
		whole(t, h, name, img)
	}
	h.Env = append(h.Env, "RUNCVM_REGISTRY_MIRRORS=nonsense")
	if r := h.Run("pull", name); r.Code != 1 || !strings.Contains(r.Stderr, "registry.mirrors") {
		t.Errorf("a wrong setting: %+v", r)
	}
}

func TestAKilledPullGoesOnWhereItWas(t *testing.T) {
	t.Parallel()
	p := newProxy(t)
	const size, before = 8 << 20, 3 << 20
	img := hostImage(t, 5, 1000, size)
	push(t, img, "resume:1")
	big := blobs(t, img)[1]
	h, name := loggedIn(t, p.Host), p.Host+"/resume:1"
	killed := func(damaged bool) int64 {
		p.forget()
		p.on(&fault{Path: big, Times: 1, After: before, Then: stall})
		r := h.Start("pull", name)
		harness.Eventually(t, harness.Patience, func() error {
			if have := partials(t, h)[big]; have < before {
				return errTooFew(have)
			}
			return nil
		})
		r.Signal(syscall.SIGKILL)
		r.Wait(harness.Soon)
		nothingNamed(t, h)
		have := partials(t, h)[big]
		if damaged {
			f := must(os.OpenFile(filepath.Join(h.DataDir, "images", "partial", strings.TrimPrefix(big, "sha256:")), os.O_WRONLY, 0))(t)
			if _, err := f.WriteAt([]byte("damaged"), before/2); err != nil {
				t.Fatal(err)
			}
			f.Close()
		}
		p.forget()
		return have
	}

	have := killed(false)
	said := pull(t, h, name)
	if !strings.Contains(said, ": Resuming") {
		t.Errorf("nothing is said of the beginning that was there: %q", said)
	}
	whole(t, h, name, img)
	got := p.requests(big)
	if len(got) != 1 || got[0].Range != rangeFrom(have) || got[0].Status != http.StatusPartialContent {
		t.Errorf("%d bytes were there, and then came %+v", have, got)
	} else if total := layerSize(t, img, 1); got[0].Sent != total-have {
		t.Errorf("%d bytes were there, and %d of %d came", have, got[0].Sent, total)
	}

	// A beginning that is wrong is found out, and thrown away.
	h.MustRun("rmi", name)
	h.MustRun("cache", "prune")
	killed(true)
	if said := pull(t, h, name); !strings.Contains(said, "by a former pull was damaged, and is thrown away") {
		t.Errorf("nothing is said of the beginning that was wrong: %q", said)
	}
	whole(t, h, name, img)
}

func TestSeveralPullsGetEachLayerOnce(t *testing.T) {
	t.Parallel()
	p := newProxy(t)
	shared := newLayer(t, "shared", noise(96, 4<<20))
	one := newImage(t, runtime.GOARCH, shared, newLayer(t, "one", noise(97, 1<<20)))
	two := newImage(t, runtime.GOARCH, shared, newLayer(t, "two", noise(98, 1<<20)))
	push(t, one, "several/one:1")
	push(t, two, "several/two:1")
	h := loggedIn(t, p.Host)
	// The first who asks for the shared layer waits until all pulls have begun.
	began := make(chan struct{})
	d := blobs(t, one)[0]
	p.on(&fault{Path: d, Times: 1, After: 1 << 20, Then: func(*http.Request, []byte) { <-began }})
	names := []string{p.Host + "/several/one:1", p.Host + "/several/one:1", p.Host + "/several/two:1"}
	var all []*harness.Running
	for _, name := range names {
		all = append(all, h.Start("pull", name))
	}
	harness.Eventually(t, harness.Patience, func() error {
		if n := len(p.begun("/manifests/")); n < len(names) {
			return errTooFew(n)
		}
		return nil
	})
	close(began)
	for _, r := range all {
		if got := r.Wait(harness.Patience); got.Code != 0 {
			t.Errorf("%+v", got)
		}
	}
	whole(t, h, names[0], one)
	whole(t, h, names[2], two)
	for _, d := range append(blobs(t, one), blobs(t, two)...) {
		if got := p.requests(d); len(got) != 1 || got[0].Range != "" {
			t.Errorf("%s was asked for as %+v", d, got)
		}
	}
}

func TestAnInterruptedPullSaysSo(t *testing.T) {
	t.Parallel()
	p := newProxy(t)
	img := hostImage(t, 7, 2<<20)
	push(t, img, "interrupted:1")
	d := blobs(t, img)[0]
	p.on(&fault{Path: d, Times: 1, After: 1 << 20, Then: stall})
	h := loggedIn(t, p.Host)
	r := h.Start("pull", p.Host+"/interrupted:1")
	harness.Eventually(t, harness.Patience, func() error {
		if have := partials(t, h)[d]; have < 1<<20 {
			return errTooFew(have)
		}
		return nil
	})
	r.Signal(syscall.SIGINT)
	if got := r.Wait(harness.Soon); got.Code != 130 || !strings.Contains(got.Stderr, "the next pull goes on from there") {
		t.Errorf("%+v", got)
	}
	nothing(t, h)
	pull(t, h, p.Host+"/interrupted:1")
	whole(t, h, p.Host+"/interrupted:1", img)
}

// A terminal shows bars; a moment is enough to see one.
func TestATerminalShowsBars(t *testing.T) {
	t.Parallel()
	host := startServer(t)
	push(t, hostImage(t, 8, 1<<20), "bars:1")
	h := loggedIn(t, host)
	cmd := h.Command("pull", host+"/bars:1")
	script := exec.Command("script", "-qefc", "stty cols 120 rows 40; "+shellWords(cmd.Args), "/dev/null")
	script.Env = append(cmd.Env, "TERM=xterm")
	timer := time.AfterFunc(harness.Patience, func() { _ = script.Process.Kill() })
	defer timer.Stop()
	out, err := script.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, want := range []string{"[====", "Pull complete", "1.0 MiB / 1.0 MiB", "Status: Downloaded newer image"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("no %q in %q", want, out)
		}
	}
}

//go:build e2e

package registry

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/sys/unix"
)

func TestAnswersThatMayChangeAreAskedForAgain(t *testing.T) {
	t.Parallel()
	p := newProxy(t)
	img := hostImage(t, 20, 100_000)
	push(t, img, "again:1")
	d := blobs(t, img)[0]
	p.on(
		&fault{Path: "/v2/", Times: 1, Answer: status(http.StatusServiceUnavailable, "UNAVAILABLE", "just starting")},
		&fault{Path: "/manifests/", Times: 1, Answer: status(http.StatusTooManyRequests, "TOOMANYREQUESTS", "slow down", "Retry-After", "1")},
		&fault{Path: "/manifests/", Times: 1, Then: cut},
		&fault{Path: d, Times: 2, Answer: status(http.StatusInternalServerError, "UNKNOWN", "sorry")},
	)
	h := loggedIn(t, p.Host)
	said := pull(t, h, p.Host+"/again:1")
	for _, want := range []string{"503 Service Unavailable; trying again", "429 Too Many Requests; trying again in 1s", "500 Internal Server Error; trying again"} {
		if !strings.Contains(said, want) {
			t.Errorf("nothing is said of %q: %s", want, said)
		}
	}
	whole(t, h, p.Host+"/again:1", img)
}

func TestRefusalsSayWhatToDo(t *testing.T) {
	t.Parallel()
	img := hostImage(t, 21, 1000)
	push(t, img, "refusals:1")
	d := blobs(t, img)[0]
	for name, c := range map[string]struct {
		fault fault
		words []string
		tries int
	}{
		"401": {fault{Path: "/manifests/", Answer: status(401, "UNAUTHORIZED", "who is there")},
			[]string{"refuses the password of tester", "401 Unauthorized: who is there", "docker login"}, 1},
		"403": {fault{Path: "/manifests/", Answer: status(403, "DENIED", "requested access is denied")},
			[]string{"does not give refusals to tester", "403 Forbidden: requested access is denied"}, 1},
		"404": {fault{Path: "/manifests/", Answer: status(404, "MANIFEST_UNKNOWN", "manifest unknown")},
			[]string{"404 Not Found: manifest unknown", "check name and tag"}, 1},
		"404 of a blob": {fault{Path: d, Answer: status(404, "BLOB_UNKNOWN", "blob unknown")},
			[]string{d, "404 Not Found: blob unknown"}, 1},
		"429": {fault{Path: "/manifests/", Answer: status(429, "TOOMANYREQUESTS", "pull rate limit")},
			[]string{"too many requests (429 Too Many Requests: pull rate limit)", "try again later", "docker login"}, 5},
		"429 for long": {fault{Path: "/manifests/", Answer: status(429, "TOOMANYREQUESTS", "in an hour", "Retry-After", "3600")},
			[]string{"too many requests"}, 1},
		"500": {fault{Path: "/manifests/", Answer: status(500, "UNKNOWN", "out of order")},
			[]string{"answers 500 Internal Server Error: out of order"}, 5},
		"500 of a blob": {fault{Path: d, Answer: status(500, "UNKNOWN", "out of order")},
			[]string{d, "answers 500 Internal Server Error: out of order"}, 5},
		"not JSON": {fault{Path: "/manifests/", Answer: content("application/vnd.oci.image.manifest.v1+json", []byte("<html>\x1b[2J"))},
			[]string{"manifest", "not an image manifest"}, 1},
		"control characters": {fault{Path: "/manifests/", Answer: status(403, "DENIED", "\\u001b[2Jgone")}, []string{"403 Forbidden: [2Jgone"}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newProxy(t)
			p.on(&c.fault)
			h := loggedIn(t, p.Host)
			refuse(t, h, p.Host+"/refusals:1", append(c.words, "pull "+p.Host+"/refusals:1: ")...)
			if n := len(p.requests(c.fault.Path)); n != c.tries {
				t.Errorf("it was asked %d times instead of %d", n, c.tries)
			}
		})
	}
}

func TestBrokenConnectionsAreContinued(t *testing.T) {
	t.Parallel()
	const size = 3 << 20
	img := hostImage(t, 22, size)
	push(t, img, "broken:1")
	d, total := blobs(t, img)[0], layerSize(t, img, 0)
	for name, then := range map[string]func(*http.Request, []byte){"cut": cut, "stalled": stall} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newProxy(t)
			p.on(&fault{Path: d, Times: 2, After: 1 << 20, Then: then})
			h := loggedIn(t, p.Host)
			h.Env = append(h.Env, "RUNCVM_REGISTRY_TIMEOUT=3s")
			said := pull(t, h, p.Host+"/broken:1")
			if !strings.Contains(said, "going on from there") {
				t.Errorf("nothing is said of the break: %s", said)
			}
			whole(t, h, p.Host+"/broken:1", img)
			got := p.requests(d)
			if len(got) != 3 {
				t.Fatalf("it was asked for as %+v", got)
			}
			// What is sent twice is what was under way when the connection broke.
			var sent int64
			for i, r := range got {
				sent += r.Sent
				if i > 0 && (r.Status != http.StatusPartialContent || r.Range == "") {
					t.Errorf("request %d is %+v", i, r)
				}
			}
			if sent < total || sent > total+1<<20 {
				t.Errorf("%d bytes were sent of a blob of %d", sent, total)
			}
		})
	}
}

func TestARegistryWithoutRangesIsReadAnew(t *testing.T) {
	t.Parallel()
	p := newProxy(t)
	img := hostImage(t, 23, 1<<20)
	push(t, img, "ranges:1")
	d := blobs(t, img)[0]
	body := make(chan []byte, 1)
	l := must(must(img.Layers())(t)[0].Compressed())(t)
	b := make([]byte, layerSize(t, img, 0))
	for n := 0; n < len(b); {
		m, err := l.Read(b[n:])
		if n += m; err != nil {
			break
		}
	}
	body <- b
	p.on(&fault{Path: d, Times: 1, After: 300_000, Then: cut}, &fault{Path: d, Answer: content("application/octet-stream", <-body)})
	h := loggedIn(t, p.Host)
	pull(t, h, p.Host+"/ranges:1")
	whole(t, h, p.Host+"/ranges:1", img)
}

func TestWrongContentIsFoundOut(t *testing.T) {
	t.Parallel()
	img := hostImage(t, 24, 500_000)
	push(t, img, "wrong:1")
	d, size := blobs(t, img)[0], layerSize(t, img, 0)
	other := must(hostImage(t, 25, 10).RawManifest())(t)
	want := must(img.Digest())(t).String()
	for name, c := range map[string]struct {
		ref   string
		fault fault
		words []string
	}{
		"a byte of a layer": {"wrong:1", fault{Path: d, After: 200_000, Then: damage}, []string{d, "digest does not match"}},
		"a layer that is short": {"wrong:1", fault{Path: d, Answer: content("application/octet-stream", noise(1, 1000))},
			[]string{d, fmt.Sprintf("the registry has 1000 bytes of it, the manifest says %d", size)}},
		"a layer that is cut always": {"wrong:1", fault{Path: d, Then: cut}, []string{d, "the connection broke after 0 of"}},
		"another manifest":           {"wrong@" + want, fault{Path: "/manifests/", Answer: content(string(types.OCIManifestSchema1), other)}, []string{want, "digest does not match"}},
		"a configuration":            {"wrong:1", fault{Path: must(img.ConfigName())(t).String(), After: 10, Then: damage}, []string{"configuration", "digest does not match"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newProxy(t)
			p.on(&c.fault)
			h := loggedIn(t, p.Host)
			refuse(t, h, p.Host+"/"+c.ref, c.words...)
			if have := partials(t, h); have[d] > 0 {
				t.Errorf("wrong content is left: %v", have)
			}
			p.forget()
			pull(t, h, p.Host+"/"+c.ref)
			local := p.Host + "/" + c.ref
			whole(t, h, local, img)
		})
	}
}

func TestWhatIsNoImageIsRefusedByName(t *testing.T) {
	t.Parallel()
	p := newProxy(t)
	h := loggedIn(t, p.Host)
	manifest := func(change func(m map[string]any)) []byte {
		layer := map[string]any{"mediaType": string(types.OCILayer), "digest": "sha256:" + strings.Repeat("1", 64), "size": 10}
		m := map[string]any{"schemaVersion": 2, "mediaType": string(types.OCIManifestSchema1), "layers": []any{layer},
			"config": map[string]any{"mediaType": string(types.OCIConfigJSON), "digest": "sha256:" + strings.Repeat("2", 64), "size": 10}}
		change(m)
		return must(json.Marshal(m))(t)
	}
	layerOf := func(mediaType string) []byte {
		return manifest(func(m map[string]any) { m["layers"].([]any)[0].(map[string]any)["mediaType"] = mediaType })
	}
	const oci = string(types.OCIManifestSchema1)
	for name, c := range map[string]struct {
		mediaType string
		body      []byte
		words     []string
	}{
		"schema 1":         {string(types.DockerManifestSchema1Signed), []byte(`{"schemaVersion":1,"name":"x","tag":"1"}`), []string{"schema 1"}},
		"foreign":          {oci, layerOf(string(types.DockerForeignLayer)), []string{"layer sha256:1111", string(types.DockerForeignLayer), "not in registries"}},
		"nondistributable": {oci, layerOf(string(types.OCIUncompressedRestrictedLayer)), []string{string(types.OCIUncompressedRestrictedLayer)}},
		"encrypted":        {oci, layerOf("application/vnd.oci.image.layer.v1.tar+encrypted"), []string{"tar+encrypted"}},
		"a chart": {oci, manifest(func(m map[string]any) {
			m["config"].(map[string]any)["mediaType"] = "application/vnd.cncf.helm.config.v1+json"
		}),
			[]string{"it is no image", "application/vnd.cncf.helm.config.v1+json"}},
		"a type of its own": {"application/vnd.example", []byte(`{"schemaVersion":2}`), []string{`of type "application/vnd.example", no image`}},
		"too large":         {oci, make([]byte, 5<<20), []string{"larger than the 4194304 bytes"}},
		"a size beyond all": {oci, manifest(func(m map[string]any) { m["config"].(map[string]any)["size"] = 1 << 40 }), []string{"configuration sha256:2222", "more than the"}},
		"many layers": {oci, manifest(func(m map[string]any) {
			l := m["layers"].([]any)[0]
			m["layers"] = make([]any, 1001)
			for i := range m["layers"].([]any) {
				m["layers"].([]any)[i] = l
			}
		}), []string{"1001 layers"}},
		"a digest that is a path": {oci, manifest(func(m map[string]any) {
			m["layers"].([]any)[0].(map[string]any)["digest"] = "sha256:../../../etc/passwd"
		}),
			[]string{"digest"}},
	} {
		p.forget()
		p.on(&fault{Path: "/manifests/", Answer: content(c.mediaType, c.body)})
		t.Log(name)
		refuse(t, h, p.Host+"/thing:1", c.words...)
	}
}

func TestAFullDiskLeavesNothing(t *testing.T) {
	t.Parallel()
	host := startServer(t)
	large := hostImage(t, 26, 20<<20)
	// It takes little as it comes, and more than there is as a disk.
	zeros := make([]byte, 40<<20)
	for i := range zeros {
		zeros[i] = byte(i >> 12)
	}
	small := newImage(t, runtime.GOARCH, newLayer(t, "file", zeros))
	push(t, large, "full:large")
	push(t, small, "full:small")
	h := loggedIn(t, host)
	if err := os.MkdirAll(h.DataDir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", h.DataDir, "tmpfs", 0, "size=16m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(h.DataDir, 0) })
	refuse(t, h, host+"/full:large", "its layers need more than the", "free in "+h.DataDir)
	refuse(t, h, host+"/full:small", "no space left on device")
	if left := must(filepath.Glob(filepath.Join(h.DataDir, "disks", "build-*")))(t); len(left) > 0 || len(partials(t, h)) > 0 {
		t.Errorf("left: %q, %v", left, partials(t, h))
	}
}

package registry

import (
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/runcvm/runcvm/internal/image"
)

func TestContentRange(t *testing.T) {
	for v, want := range map[string][2]int64{
		"bytes 0-0/1": {0, 1}, "bytes 5-9/10": {5, 10}, "bytes 5-9/*": {5, -1}, "bytes 0-4611686018427387902/4611686018427387903": {0, 1<<62 - 1},
	} {
		if start, total, err := parseContentRange(v); err != nil || start != want[0] || total != want[1] {
			t.Errorf("%s: %d, %d, %v", v, start, total, err)
		}
	}
	for _, v := range []string{"", "bytes", "bytes 1-0/2", "bytes 0-5/5", "bytes */10", "bytes -1-5/10", "bytes 0-5", "items 0-1/2", "bytes 0-99999999999999999999/*",
		"bytes 0-1/x"} {
		if start, total, err := parseContentRange(v); err == nil {
			t.Errorf("%q: %d, %d", v, start, total)
		}
	}
}

func FuzzParseContentRange(f *testing.F) {
	f.Add("bytes 5-9/10")
	f.Add("bytes 5-9/*")
	f.Fuzz(func(t *testing.T, v string) {
		start, total, err := parseContentRange(v)
		if err == nil && (start < 0 || total < -1 || total >= 0 && start >= total) {
			t.Errorf("%q: %d, %d", v, start, total)
		}
	})
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for v, want := range map[string]time.Duration{
		"": 0, "7": 7 * time.Second, "-1": 0, "soon": 0, "Fri, 02 Jan 2026 03:04:35 GMT": 30 * time.Second, "Fri, 02 Jan 2026 03:04:00 GMT": 0,
		"99999999999999999999": 0,
	} {
		if got := retryAfter(&http.Response{Header: http.Header{"Retry-After": {v}}}, now); got != want {
			t.Errorf("%q: %s instead of %s", v, got, want)
		}
	}
}

func TestMediaTypes(t *testing.T) {
	for _, c := range []struct{ header, body, want string }{
		{ocispec.MediaTypeImageManifest, `{"schemaVersion":2}`, ocispec.MediaTypeImageManifest},
		{ocispec.MediaTypeImageManifest, `{"schemaVersion":2,"mediaType":"` + ocispec.MediaTypeImageIndex + `"}`, ocispec.MediaTypeImageIndex},
		{dockerList + "; charset=utf-8", `{}`, dockerList},
		{"application/json", `{"schemaVersion":1}`, schema1},
		{"text/plain", `{"schemaVersion":2,"manifests":[]}`, ocispec.MediaTypeImageIndex},
		{"", `{"schemaVersion":2,"config":{}}`, ocispec.MediaTypeImageManifest},
		{"text/html", `<html>`, "text/html"},
	} {
		if got := mediaType(c.header, []byte(c.body)); got != c.want {
			t.Errorf("%q with %s: %s instead of %s", c.header, c.body, got, c.want)
		}
	}
}

func TestTheBestPlatformIsChosen(t *testing.T) {
	at := func(text string) ocispec.Descriptor {
		p := platforms.MustParse(text)
		return ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Platform: &p, Annotations: map[string]string{"is": text}}
	}
	all := []ocispec.Descriptor{at("unknown/unknown"), at("linux/arm/v5"), at("linux/arm/v7"), at("linux/arm/v6"), at("linux/arm64"), at("windows/amd64"),
		at("linux/amd64")}
	for named, want := range map[string]string{"linux/amd64": "linux/amd64", "linux/arm/v7": "linux/arm/v7", "linux/arm/v6": "linux/arm/v6",
		"linux/arm64": "linux/arm64", "linux/riscv64": "", "windows/amd64": "windows/amd64"} {
		d, err := choose(all, platforms.Only(platforms.MustParse(named)), named)
		if want == "" {
			if !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), "linux/arm/v5") || strings.Contains(err.Error(), "unknown") {
				t.Errorf("%s: %v", named, err)
			}
			continue
		}
		if err != nil || d.Annotations["is"] != want {
			t.Errorf("%s: %v, %v", named, d, err)
		}
	}
}

func TestWhatARegistrySaysIsCleaned(t *testing.T) {
	if got := clean("a\x1b[2J\n\x00b\xff\u202e", 100); got != "a [2J  b\uFFFD" {
		t.Errorf("%q", got)
	}
	if got := clean(strings.Repeat("x", 1000), 10); got != strings.Repeat("x", 10)+"..." {
		t.Errorf("%q", got)
	}
}

// FuzzManifest reads what a registry may answer to the question for a manifest, as a pull does.
func FuzzManifest(f *testing.F) {
	blob := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayerGzip, Digest: someDigest, Size: 7}
	config := blob
	config.MediaType = ocispec.MediaTypeImageConfig
	for _, v := range []any{
		ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, Config: config, Layers: []ocispec.Descriptor{blob}},
		ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{blob}},
	} {
		b, err := json.Marshal(v)
		if err != nil {
			f.Fatal(err)
		}
		f.Add("", []byte(strings.Replace(string(b), `"schemaVersion":0`, `"schemaVersion":2`, 1)))
	}
	want := platforms.Only(platforms.MustParse("linux/amd64"))
	f.Fuzz(func(t *testing.T, header string, b []byte) {
		mediaType(header, b)
		if index, err := image.ParseIndex(b); err == nil {
			if d, err := choose(index.Manifests, want, "linux/amd64"); err == nil && d.Platform != nil && !want.Match(*d.Platform) {
				t.Errorf("%v was chosen", d.Platform)
			}
		}
		m, err := image.ParseManifest(b)
		if err == nil {
			err = checkTypes(m)
		}
		if err != nil {
			return
		}
		for _, l := range append(m.Layers, m.Config) {
			if errors.Join(l.Digest.Validate()) != nil || l.Size < 0 {
				t.Errorf("%+v was taken", l)
			}
		}
	})
}

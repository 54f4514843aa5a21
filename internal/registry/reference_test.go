package registry

import (
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/runcvm/runcvm/internal/image"
)

const someDigest = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

func TestNamesAreReadAsDockerDoes(t *testing.T) {
	for name, want := range map[string]string{
		"debian":                             "docker.io/library/debian:latest",
		"debian:12":                          "docker.io/library/debian:12",
		"team/app":                           "docker.io/team/app:latest",
		"docker.io/debian":                   "docker.io/library/debian:latest",
		"index.docker.io/library/debian:1":   "docker.io/library/debian:1",
		"localhost/app":                      "localhost/app:latest",
		"localhost:5000/app:v1":              "localhost:5000/app:v1",
		"[::1]:5000/app":                     "[::1]:5000/app:latest",
		"ghcr.io/a/b-c__d.e/f:T_1.x-y":       "ghcr.io/a/b-c__d.e/f:T_1.x-y",
		"HOST/app":                           "HOST/app:latest",
		"debian@" + someDigest:               "docker.io/library/debian@" + someDigest,
		"quay.io/x/y:tag@" + someDigest:      "quay.io/x/y:tag@" + someDigest,
		strings.Repeat("a", 64) + "/x":       "docker.io/" + strings.Repeat("a", 64) + "/x:latest",
		strings.Repeat("a", 63) + "g":        "docker.io/library/" + strings.Repeat("a", 63) + "g:latest",
		"debian:" + strings.Repeat("t", 128): "docker.io/library/debian:" + strings.Repeat("t", 128),
	} {
		r, err := Parse(name)
		if err != nil || r.String() != want {
			t.Errorf("%s: %s, %v; want %s", name, r, err, want)
		}
	}
	for _, name := range []string{
		"", ":", "/", "a//b", "a/", "/a", "Debian", "a/B", "a b", "a:b:c", "a@", "a@md5:d41d8cd98f00b204e9800998ecf8427e", "a@" + someDigest + "0",
		"a@" + strings.ToUpper(someDigest), "-a", "a-", "a..b", "a___b", "a/-b", "host:port/a", "host-:1/a", "http://host/a", "a:-x", "../a", "a/../b",
		"a:" + strings.Repeat("t", 129), strings.Repeat("a", 64), strings.Repeat("a/", 130) + "a", "a\x00b", "a\nb", "ä",
	} {
		if r, err := Parse(name); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: %v, %v", name, r, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, name := range []string{"debian", "localhost:5000/a/b:c@" + someDigest, "[::1]:1/a", "A/b", "a:b/c"} {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		r, err := Parse(name)
		if err != nil {
			return
		}
		// The full name is the same reference, and one that the store takes, except that a name there is shorter.
		again, err := Parse(r.String())
		if err != nil || again != r {
			t.Errorf("%q: %v, then %v, %v", name, r, again, err)
		}
		if len(r.String()) < 200 {
			if _, err := image.NormalizeName(r.String()); err != nil {
				t.Errorf("%q: %v", name, err)
			}
		}
	})
}

func TestMirrors(t *testing.T) {
	got, err := ParseMirrors(" docker.io=https://mirror.example/a/b/ ,ghcr.io=http://10.0.0.1:5000,")
	want := []Mirror{{Of: "docker.io", Host: "mirror.example", Prefix: "a/b"}, {Of: "ghcr.io", Host: "10.0.0.1:5000", Plain: true}}
	if err != nil || len(got) != 2 || got[0] != want[0] || got[1] != want[1] {
		t.Errorf("%+v, %v", got, err)
	}
	for _, bad := range []string{"x", "docker.io", "docker.io=mirror", "docker.io=ftp://x", "=https://x", "a/b=https://x", "docker.io=https://u:p@x",
		"docker.io=https://x?y", "docker.io=https://x/A", "docker.io=https://"} {
		if m, err := ParseMirrors(bad); err == nil {
			t.Errorf("%s: %+v", bad, m)
		}
	}
}

func FuzzParseMirrors(f *testing.F) {
	f.Add("docker.io=https://mirror.example/a,ghcr.io=http://[::1]:5000")
	f.Fuzz(func(t *testing.T, list string) {
		mirrors, err := ParseMirrors(list)
		for _, m := range mirrors {
			if err == nil && (m.Host == "" || m.Of == "" || strings.ContainsAny(m.Host+m.Prefix, "@?# ")) {
				t.Errorf("%q: %+v", list, m)
			}
		}
	})
}

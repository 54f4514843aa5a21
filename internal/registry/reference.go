package registry

import (
	"fmt"
	"regexp"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
)

// DockerHub is the registry of a name that has none.
const DockerHub = "docker.io"

// Reference is the full name of an image, by the rules of Docker's names.
type Reference struct {
	// Domain is the registry's host, with a port if it has one.
	Domain string
	// Path is the repository's name at the registry.
	Path string
	// Tag is "latest" when the name has neither a tag nor a digest; with a digest it may be empty.
	Tag string
	// Digest is empty, or of the manifest or the index that is meant, whatever the tag.
	Digest digest.Digest
}

// lazily compiles a regular expression when it is first used: what is compiled at the program's start is a part of every
// container's.
func lazily(expression string) func() *regexp.Regexp {
	return sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(expression) })
}

// The grammar of github.com/distribution/reference.
var (
	domainRE = lazily(`^((([A-Za-z0-9]|[A-Za-z0-9][A-Za-z0-9-]*[A-Za-z0-9])(\.([A-Za-z0-9]|[A-Za-z0-9][A-Za-z0-9-]*[A-Za-z0-9]))*)` +
		`|\[[0-9A-Fa-f:]+\])(:[0-9]+)?$`)
	pathRE = lazily(`^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*$`)
	tagRE  = lazily(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$`)
	hexRE  = lazily(`^[a-f0-9]{64}$`)
)

// maxPath bounds a repository's name, in bytes.
const maxPath = 255

// Parse reads the name of an image as Docker does. The error is errdefs.ErrInvalidArgument.
func Parse(name string) (Reference, error) {
	fail := func(format string, args ...any) (Reference, error) {
		return Reference{}, fmt.Errorf("image name %q: invalid reference format: %s: %w", name, fmt.Sprintf(format, args...),
			errdefs.ErrInvalidArgument)
	}
	if hexRE().MatchString(name) {
		return fail("64 hexadecimal digits are an id and no name")
	}
	rest, pinned, byDigest := strings.Cut(name, "@")
	r := Reference{Digest: digest.Digest(pinned)}
	if byDigest && (r.Digest.Validate() != nil || r.Digest.Algorithm() != digest.SHA256) {
		return fail("after the @ has to be a digest, sha256: and 64 hexadecimal digits")
	}
	// A colon before the last slash is a port's.
	if i := strings.LastIndexByte(rest, ':'); i > strings.LastIndexByte(rest, '/') {
		rest, r.Tag = rest[:i], rest[i+1:]
		if !tagRE().MatchString(r.Tag) {
			return fail("tag %q: up to 128 letters, digits and _.-, the first none of .-", r.Tag)
		}
	}
	r.Domain, r.Path = splitDomain(rest)
	if !domainRE().MatchString(r.Domain) {
		return fail("%q is no host of a registry", r.Domain)
	}
	if r.Path != strings.ToLower(r.Path) {
		return fail("repository name (%s) must be lowercase", r.Path)
	}
	if !pathRE().MatchString(r.Path) {
		return fail("%q is no name of a repository", r.Path)
	}
	if len(r.Path) > maxPath {
		return fail("the repository's name has more than %d bytes", maxPath)
	}
	if r.Tag == "" && !byDigest {
		r.Tag = "latest"
	}
	return r, nil
}

// splitDomain splits a name into registry and repository. What is before the first slash is a registry if it has a dot or a
// colon, is "localhost", or has upper case letters, which a repository can't have.
func splitDomain(name string) (domain, path string) {
	first, rest, ok := strings.Cut(name, "/")
	if !ok || !strings.ContainsAny(first, ".:") && first != "localhost" && strings.ToLower(first) == first {
		domain, path = DockerHub, name
	} else {
		domain, path = first, rest
	}
	if domain == "index.docker.io" {
		domain = DockerHub
	}
	if domain == DockerHub && !strings.Contains(path, "/") {
		path = "library/" + path
	}
	return domain, path
}

// Repository is the name without tag and digest.
func (r Reference) Repository() string { return r.Domain + "/" + r.Path }

// String is the full name.
func (r Reference) String() string {
	s := r.Repository()
	if r.Tag != "" {
		s += ":" + r.Tag
	}
	if r.Digest != "" {
		s += "@" + r.Digest.String()
	}
	return s
}

// what is the tag or the digest by which a registry is asked.
func (r Reference) what() string {
	if r.Digest != "" {
		return r.Digest.String()
	}
	return r.Tag
}

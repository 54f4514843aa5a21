package registry

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// Options say how registries are reached.
type Options struct {
	// Mirrors are asked first, in this order.
	Mirrors []Mirror
	// CAFile has certificates, in PEM, that are trusted beside the system's; empty: none.
	CAFile string
	// Timeout is how long a registry may be silent until a request is tried again.
	Timeout time.Duration
	// Progress is told what is done; nil: nobody.
	Progress Progress
}

// Mirror stands in for a registry.
type Mirror struct {
	// Of is the registry's host, with a port if it has one.
	Of string
	// Host is the mirror's.
	Host string
	// Prefix is put before a repository's name at the mirror; it may be empty.
	Prefix string
	// Plain says that the mirror speaks http without TLS. One at a loopback address may do so anyway.
	Plain bool
}

// ParseMirrors reads a list as "docker.io=https://mirror.example/prefix, ghcr.io=http://10.0.0.1:5000".
func ParseMirrors(list string) ([]Mirror, error) {
	var mirrors []Mirror
	for item := range strings.SplitSeq(list, ",") {
		if item = strings.TrimSpace(item); item == "" {
			continue
		}
		of, address, ok := strings.Cut(item, "=")
		u, err := url.Parse(address)
		m := Mirror{Of: strings.TrimSpace(of)}
		if !ok || err != nil || !domainRE().MatchString(m.Of) || u.Scheme != "https" && u.Scheme != "http" ||
			!domainRE().MatchString(u.Host) || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
			return nil, fmt.Errorf("%q is no mirror of a registry: write REGISTRY=https://HOST[:PORT][/PREFIX]", item)
		}
		m.Host, m.Prefix, m.Plain = u.Host, strings.Trim(u.Path, "/"), u.Scheme == "http"
		if m.Prefix != "" && !pathRE().MatchString(m.Prefix) {
			return nil, fmt.Errorf("%q: %q is no beginning of a repository's name", item, m.Prefix)
		}
		mirrors = append(mirrors, m)
	}
	return mirrors, nil
}

// Client pulls images.
type Client struct {
	o    Options
	base *http.Transport
}

// New returns a client. It asks nobody yet.
func New(o Options) (*Client, error) {
	if o.Progress == nil {
		o.Progress = silent{}
	}
	t := &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: min(o.Timeout, 30*time.Second), KeepAlive: 30 * time.Second}).DialContext,
		TLSHandshakeTimeout:   o.Timeout,
		ResponseHeaderTimeout: o.Timeout,
		ExpectContinueTimeout: time.Second,
		IdleConnTimeout:       90 * time.Second,
		MaxIdleConnsPerHost:   maxParallel,
		ForceAttemptHTTP2:     true,
		DisableCompression:    true, // a layer's bytes are what its digest is of
		ReadBufferSize:        64 << 10,
	}
	if o.CAFile != "" {
		pool, err := x509.SystemCertPool()
		if err != nil {
			return nil, fmt.Errorf("the system's certificates: %w", err)
		}
		pem, err := os.ReadFile(o.CAFile)
		if err != nil {
			return nil, fmt.Errorf("registry.ca_file: %w", err)
		}
		if !pool.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("registry.ca_file: %s has no certificate in PEM", o.CAFile)
		}
		t.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	}
	return &Client{o: o, base: t}, nil
}

// Close ends connections that are kept.
func (c *Client) Close() { c.base.CloseIdleConnections() }

// place is where an image is looked for: its registry, or a mirror of that.
type place struct {
	c      *Client
	host   string
	path   string
	mirror bool
	plain  bool

	once   sync.Once
	client *http.Client
	err    error
	// user is by whom access was asked for; empty: nobody.
	user string
}

// places are the mirrors of a name's registry and then the registry.
func (c *Client) places(r Reference) []*place {
	var all []*place
	for _, m := range c.o.Mirrors {
		if m.Of != r.Domain {
			continue
		}
		path := r.Path
		if m.Prefix != "" {
			path = m.Prefix + "/" + path
		}
		all = append(all, &place{c: c, host: m.Host, path: path, mirror: true, plain: m.Plain})
	}
	return append(all, &place{c: c, host: r.Domain, path: r.Path})
}

// authHost is the host of a registry's API and the name of its credentials.
func authHost(domain string) string {
	if domain == DockerHub {
		return name.DefaultRegistry
	}
	return domain
}

// connect asks the registry, once, how it wants to be asked, and finds credentials.
func (p *place) connect(ctx context.Context) (*http.Client, error) {
	p.once.Do(func() { p.client, p.err = p.handshake(ctx) })
	return p.client, p.err
}

func (p *place) handshake(ctx context.Context) (*http.Client, error) {
	host := authHost(p.host)
	plain := p.plain || loopback(host)
	var options []name.Option
	if plain {
		options = append(options, name.Insecure)
	}
	registry, err := name.NewRegistry(host, options...)
	if err != nil {
		return nil, fmt.Errorf("registry %s: %w", p.host, err)
	}
	auth, err := p.credentials(ctx)
	if err != nil {
		return nil, err
	}
	attempts := maxAttempts
	if p.mirror {
		attempts = maxMirrorAttempts
	}
	var base http.RoundTripper = &watching{p.c.base, p.c.o.Timeout}
	base = &plainGuard{next: base, allowed: plain, host: host}
	base = &retrier{next: base, attempts: attempts, timeout: p.c.o.Timeout, note: p.c.o.Progress.Note}
	t, err := transport.NewWithContext(ctx, registry, auth, transport.NewUserAgent(base, "runcvm"),
		[]string{"repository:" + p.path + ":" + transport.PullScope})
	if err != nil {
		return nil, p.explain(err)
	}
	return &http.Client{Transport: t}, nil
}

// resource is what credentials are looked for: a repository, whose name may be shorter than go-containerregistry's own type takes.
type resource struct{ host, path string }

func (r resource) String() string      { return r.host + "/" + r.path }
func (r resource) RegistryStr() string { return r.host }

// helperTimeout bounds a credential helper, which may ask a person or a network.
const helperTimeout = time.Minute

// credentials are those of docker login or podman login, by way of a credential helper where one is configured.
func (p *place) credentials(ctx context.Context) (authn.Authenticator, error) {
	type answer struct {
		auth authn.Authenticator
		user string
		err  error
	}
	done := make(chan answer, 1)
	go func() {
		auth, err := authn.Resolve(ctx, authn.DefaultKeychain, resource{authHost(p.host), p.path})
		a := answer{auth: auth, err: err}
		if err == nil && auth != authn.Anonymous {
			var config *authn.AuthConfig
			if config, a.err = authn.Authorization(ctx, auth); a.err == nil {
				if a.user = config.Username; a.user == "" {
					a.user = "a token"
				}
			}
		}
		done <- a
	}()
	select {
	case a := <-done:
		if a.err != nil {
			return nil, fmt.Errorf("credentials for registry %s: %w; look at the docker configuration (config.json of $DOCKER_CONFIG or "+
				"~/.docker) and its credential helpers", p.host, a.err)
		}
		p.user = a.user
		return a.auth, nil
	case <-time.After(helperTimeout):
		return nil, fmt.Errorf("credentials for registry %s: the credential helper of the docker configuration has not answered for %s",
			p.host, helperTimeout)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// url is of a resource of the repository. Its scheme is replaced by the one that the registry was found to speak.
func (p *place) url(kind, what string) string {
	return "https://" + authHost(p.host) + "/v2/" + p.path + "/" + kind + "/" + what
}

// loopback says whether a host, with or without a port, is this machine.
func loopback(host string) bool {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	ip := net.ParseIP(strings.Trim(host, "[]"))
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// errPlain says that a password or an image would have gone over a network that anybody may listen to or change.
var errPlain = errors.New("plain http is spoken only with this machine itself, and with a mirror whose URL says so")

// plainGuard refuses http without TLS, also after a redirect.
type plainGuard struct {
	next    http.RoundTripper
	allowed bool // to host
	host    string
}

func (g *plainGuard) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL.Scheme == "http" && !loopback(req.URL.Host) && !(g.allowed && req.URL.Host == g.host) {
		return nil, fmt.Errorf("%s: %w", req.URL.Host, errPlain)
	}
	return g.next.RoundTrip(req)
}

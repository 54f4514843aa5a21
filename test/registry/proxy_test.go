//go:build e2e

package registry

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/runcvm/runcvm/test/harness"
)

// proxy stands before the registry, speaks http without TLS, makes faults, and keeps what it was asked.
type proxy struct {
	// Host is its address with its port.
	Host string

	t      testing.TB
	mu     sync.Mutex
	faults []*fault
	seen   []*request
	active int
}

// request is one that the proxy saw.
type request struct {
	Method, Path, Range string
	// Status is of the answer, Sent how many bytes of it went out.
	Status int
	Sent   int64
}

// fault is what happens to requests whose path contains a text, so many times; always when Times is 0.
type fault struct {
	Path  string
	Times int
	// Answer, if there is one, answers in the registry's place.
	Answer func(w http.ResponseWriter, r *http.Request)
	// After so many bytes of the registry's answer Then is called, with the rest of what would be written; it may change that.
	After int64
	Then  func(r *http.Request, rest []byte)

	fired int
}

// newProxy starts a proxy that ends with the test.
func newProxy(t testing.TB) *proxy {
	t.Helper()
	target := &url.URL{Scheme: "https", Host: startServer(t)}
	p := &proxy{t: t}
	reverse := &httputil.ReverseProxy{
		Transport:     server.client,
		FlushInterval: -1,
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			r.Out.Host = r.In.Host // so that redirects and realms name the proxy
		},
		ErrorHandler: func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) },
	}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		o := &observed{ResponseWriter: w, r: r, fault: p.match(r.URL.Path), status: http.StatusOK}
		seen := &request{Method: r.Method, Path: r.URL.Path, Range: r.Header.Get("Range")}
		p.mu.Lock()
		p.seen, p.active = append(p.seen, seen), p.active+1
		p.mu.Unlock()
		defer func() {
			p.mu.Lock()
			defer p.mu.Unlock()
			seen.Status, seen.Sent = o.status, o.sent
			p.active--
		}()
		if o.fault != nil && o.fault.Answer != nil {
			o.fault.Answer(o, r)
			return
		}
		reverse.ServeHTTP(o, r)
	}))
	t.Cleanup(func() {
		s.CloseClientConnections()
		s.Close()
	})
	p.Host = strings.TrimPrefix(s.URL, "http://")
	return p
}

// on adds faults; the first that fits is the one that happens.
func (p *proxy) on(faults ...*fault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.faults = append(p.faults, faults...)
}

func (p *proxy) match(path string) *fault {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, f := range p.faults {
		if strings.Contains(path, f.Path) && (f.Times == 0 || f.fired < f.Times) {
			f.fired++
			return f
		}
	}
	return nil
}

// requests returns what was asked whose path contains a text. It waits until all answers are over: a client may have seen the
// end of one a moment before.
func (p *proxy) requests(path string) []request {
	p.t.Helper()
	harness.Eventually(p.t, harness.Soon, func() error {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.active > 0 {
			return fmt.Errorf("%d requests are not answered", p.active)
		}
		return nil
	})
	return p.begun(path)
}

// begun is requests that does not wait.
func (p *proxy) begun(path string) []request {
	p.mu.Lock()
	defer p.mu.Unlock()
	var found []request
	for _, r := range p.seen {
		if strings.Contains(r.Path, path) {
			found = append(found, *r)
		}
	}
	return found
}

// forget forgets requests and faults.
func (p *proxy) forget() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.seen, p.faults = nil, nil
}

// observed counts an answer's bytes, and lets its fault happen.
type observed struct {
	http.ResponseWriter
	r      *http.Request
	fault  *fault
	status int
	sent   int64
}

func (o *observed) Unwrap() http.ResponseWriter { return o.ResponseWriter }

func (o *observed) WriteHeader(status int) {
	o.status = status
	o.ResponseWriter.WriteHeader(status)
}

func (o *observed) Write(p []byte) (int, error) {
	f := o.fault
	if f == nil || f.Then == nil || o.sent+int64(len(p)) <= f.After {
		n, err := o.ResponseWriter.Write(p)
		o.sent += int64(n)
		return n, err
	}
	first := max(f.After-o.sent, 0)
	if _, err := o.ResponseWriter.Write(p[:first]); err != nil {
		return 0, err
	}
	o.sent += first
	if flusher, ok := o.ResponseWriter.(http.Flusher); ok {
		flusher.Flush()
	}
	f.Then(o.r, p[first:])
	o.fault = nil
	n, err := o.ResponseWriter.Write(p[first:])
	o.sent += int64(n)
	return int(first) + n, err
}

// cut breaks the connection.
func cut(*http.Request, []byte) { panic(http.ErrAbortHandler) }

// damage changes a byte.
func damage(_ *http.Request, rest []byte) { rest[0] ^= 0xff }

// stall sends no more until the client goes.
func stall(r *http.Request, _ []byte) {
	<-r.Context().Done()
	panic(http.ErrAbortHandler)
}

// status answers with a status and an error of the distribution specification.
func status(code int, kind, message string, headers ...string) func(http.ResponseWriter, *http.Request) {
	return func(w http.ResponseWriter, _ *http.Request) {
		for i := 0; i+1 < len(headers); i += 2 {
			w.Header().Set(headers[i], headers[i+1])
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(code)
		_, _ = w.Write([]byte(`{"errors":[{"code":"` + kind + `","message":"` + message + `"}]}`))
	}
}

// content answers with bytes of a type.
func content(mediaType string, body []byte) func(http.ResponseWriter, *http.Request) {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", mediaType)
		_, _ = w.Write(body)
	}
}

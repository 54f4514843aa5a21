package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// answer is what goes back to the client: body is nil for none.
type answer struct {
	status     int
	body       []byte
	deprecated bool
}

// Handle serves one request as Firecracker does; body is nil when the request has none.
func (v *VMM) Handle(ctx context.Context, method, path string, body []byte) (status int, answerBody []byte, deprecated bool) {
	a := v.handle(ctx, method, path, body)
	return a.status, a.body, a.deprecated
}

func (v *VMM) handle(ctx context.Context, method, path string, body []byte) answer {
	v.turn.Lock()
	defer v.turn.Unlock()
	log := v.opts.Log.Logger()
	log.Info(fmt.Sprintf("The API server received a %s request on %q.", title(method), path))
	var result any
	act, err := parse(method, path, body)
	if err == nil {
		run := act.before
		if v.machine != nil {
			run = act.after
		}
		result, err = run(ctx, v)
	}
	v.opts.Metrics.count(method, path, err != nil)
	a := answer{status: http.StatusNoContent, deprecated: act.deprecated != ""}
	switch {
	case err != nil:
		a = fault(err)
		a.deprecated = act.deprecated != ""
		log.Error(fmt.Sprintf("Received Error. Status code: %d. Message: %v", a.status, err))
	case result != nil:
		a.status, a.body = http.StatusOK, compact(result)
	}
	if act.deprecated != "" {
		log.Warn(act.deprecated)
	}
	return a
}

func title(method string) string {
	if method == "" {
		return ""
	}
	return method[:1] + strings.ToLower(method[1:])
}

func fault(err error) answer {
	status := http.StatusBadRequest
	if f, ok := errors.AsType[*Fault](err); ok {
		status = f.Status
	}
	return answer{status: status, body: compact(map[string]string{"fault_message": err.Error()})}
}

// compact encodes as serde_json does: no white space, no escaping of HTML.
func compact(v any) []byte {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		panic(fmt.Sprintf("encode an answer of a known type: %v", err))
	}
	return bytes.TrimRight(b.Bytes(), "\n")
}

// Serve answers requests on l until ctx ends; requests under way are finished first.
func (v *VMM) Serve(ctx context.Context, l net.Listener) error {
	server := &http.Server{
		Handler: http.HandlerFunc(v.serveHTTP),
		// A client that sends a request's head must send all of it; Firecracker's own buffer is 1 KiB a line.
		ReadHeaderTimeout: 30 * time.Second,
		MaxHeaderBytes:    16 << 10,
		BaseContext:       func(net.Listener) context.Context { return context.WithoutCancel(ctx) },
	}
	stopped := make(chan error, 1)
	stop := context.AfterFunc(ctx, func() {
		bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		stopped <- server.Shutdown(bounded)
	})
	err := server.Serve(&limited{Listener: l})
	if stop() {
		return fmt.Errorf("serve the API: %w", err)
	}
	if err := <-stopped; err != nil {
		return fmt.Errorf("stop the API: %w", err)
	}
	return nil
}

// maxConnections is micro_http's MAX_CONNECTIONS: a further one gets serverFull, at once and in these bytes.
const (
	maxConnections = 10
	serverFull     = "HTTP/1.1 503\r\nServer: Firecracker API\r\nConnection: close\r\nContent-Length: 40\r\n\r\n" +
		`{ "error": "Too many open connections" }`
)

// limited turns connections away while maxConnections are open.
type limited struct {
	net.Listener
	open atomic.Int32
}

func (l *limited) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if l.open.Add(1) <= maxConnections {
			return &counted{Conn: conn, closed: sync.OnceFunc(func() { l.open.Add(-1) })}, nil
		}
		l.open.Add(-1)
		_, _ = io.WriteString(conn, serverFull) // fits the socket's buffer; a client that has gone needs no answer
		_ = conn.Close()
	}
}

// counted is a connection that is counted until it is closed.
type counted struct {
	net.Conn
	closed func()
}

func (c *counted) Close() error {
	c.closed()
	return c.Conn.Close()
}

func (v *VMM) serveHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h["Date"] = nil // Firecracker sends none
	h.Set("Server", "Firecracker API")
	h.Set("Connection", "keep-alive")
	a := v.read(r)
	if a.deprecated {
		h.Set("Deprecation", "true")
	}
	if a.body != nil {
		h.Set("Content-Type", "application/json")
		h.Set("Content-Length", fmt.Sprint(len(a.body)))
	}
	w.WriteHeader(a.status)
	_, _ = w.Write(a.body) // a client that has gone needs no answer
}

// read takes the request apart; what Firecracker's HTTP parser refuses gets that parser's form of an error.
func (v *VMM) read(r *http.Request) answer {
	switch r.Method {
	case http.MethodGet, http.MethodPut, http.MethodPatch, http.MethodDelete:
	default:
		return httpError("Invalid HTTP Method: Unsupported HTTP method.")
	}
	var body []byte
	// A body without Content-Length does not exist for Firecracker.
	if r.ContentLength > 0 {
		if r.ContentLength > int64(v.opts.MaxPayload) {
			return httpError(fmt.Sprintf("Request payload with size %d is larger than the limit of %d allowed by server.",
				r.ContentLength, v.opts.MaxPayload))
		}
		var err error
		if body, err = io.ReadAll(r.Body); err != nil {
			return httpError("Invalid request.")
		}
	}
	return v.handle(r.Context(), r.Method, absolutePath(r.RequestURI), body)
}

// absolutePath is the path of a request line's URI, query and all.
func absolutePath(uri string) string {
	if rest, ok := strings.CutPrefix(uri, "http://"); ok {
		k := strings.IndexByte(rest, '/')
		if k < 0 {
			return ""
		}
		return rest[k:]
	}
	if !strings.HasPrefix(uri, "/") {
		return ""
	}
	return uri
}

func httpError(msg string) answer {
	return answer{
		status: http.StatusBadRequest,
		body:   []byte("{ \"error\": \"" + msg + "\nAll previous unanswered requests will be dropped.\" }"),
	}
}

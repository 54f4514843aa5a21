package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	// maxBreaks is how often the connection of one blob may break in a row without a byte in between.
	maxBreaks = maxAttempts
	// maxConnections bounds the connections for one blob, whatever each brings.
	maxConnections = 1000
)

// errStalled says that nothing came for Options.Timeout.
var errStalled = errors.New("the registry has gone silent")

// body is a blob's bytes from an offset on, through as many connections as it takes.
type body struct {
	ctx    context.Context
	places []*place // the one to ask first, then the others
	desc   ocispec.Descriptor
	note   func(string)
	at     int64

	cur         io.ReadCloser
	breaks      int
	connections int
	err         error
}

// Read returns what comes. A connection that breaks or falls silent is replaced by one that goes on there.
func (b *body) Read(p []byte) (int, error) {
	for b.err == nil {
		if b.cur == nil {
			if b.cur, b.err = b.open(); b.err != nil {
				break
			}
		}
		n, err := b.cur.Read(p)
		b.at += int64(n)
		if n > 0 {
			b.breaks = 0
		}
		if err == nil || b.at >= b.desc.Size {
			return n, err
		}
		// An end that is too early is a break like any other.
		b.drop()
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		b.err = b.pause(err)
		if n > 0 {
			return n, nil
		}
	}
	return 0, b.err
}

// pause waits after a break, or gives up.
func (b *body) pause(err error) error {
	err = fmt.Errorf("blob %s from %s: the connection broke after %d of %d bytes: %w", b.desc.Digest, b.places[0].host, b.at,
		b.desc.Size, err)
	b.breaks++
	if b.ctx.Err() != nil {
		return b.ctx.Err()
	}
	if b.breaks >= maxBreaks || b.connections >= maxConnections {
		return err
	}
	delay := backoff(b.breaks)
	b.note(fmt.Sprintf("%v; going on from there in %s", err, delay.Round(time.Millisecond)))
	return sleep(b.ctx, delay)
}

// open asks for the rest, of every place if need be.
func (b *body) open() (io.ReadCloser, error) {
	for {
		b.connections++
		r, err := b.places[0].blob(b.ctx, b.desc, b.at)
		if err == nil {
			return r, nil
		}
		// Where bytes came from already, a server that starts anew may refuse connections for a moment.
		if b.connections > 1 && errors.Is(err, syscall.ECONNREFUSED) && b.breaks < maxBreaks {
			b.breaks++
			if err := sleep(b.ctx, backoff(b.breaks)); err != nil {
				return nil, err
			}
			continue
		}
		if len(b.places) == 1 || b.ctx.Err() != nil {
			return nil, err
		}
		b.note(fmt.Sprintf("%v; trying %s", err, b.places[1].host))
		b.places = b.places[1:]
	}
}

func (b *body) drop() {
	b.cur.Close() // the connection broke
	b.cur = nil
}

// Close ends the connection.
func (b *body) Close() error {
	if b.cur != nil {
		b.drop()
	}
	return nil
}

// blob asks for a blob's bytes from an offset on.
func (p *place) blob(ctx context.Context, d ocispec.Descriptor, offset int64) (io.ReadCloser, error) {
	fail := func(err error) (io.ReadCloser, error) {
		return nil, fmt.Errorf("blob %s: %w", d.Digest, p.explain(err))
	}
	client, err := p.connect(ctx)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.url("blobs", d.Digest.String()), nil)
	if err != nil {
		return fail(err)
	}
	if offset > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", offset))
	}
	resp, err := client.Do(req)
	if err != nil {
		return fail(err)
	}
	if offset > 0 && resp.StatusCode == http.StatusRequestedRangeNotSatisfiable {
		resp.Body.Close()
		return fail(fmt.Errorf("the registry has not more than %d bytes of it, the manifest says %d", offset, d.Size))
	}
	if err := transport.CheckError(resp, http.StatusOK, http.StatusPartialContent); err != nil {
		resp.Body.Close()
		return fail(err)
	}
	start, total, err := span(resp)
	switch {
	case err != nil:
	case start > offset:
		err = fmt.Errorf("the registry answers from byte %d on instead of %d", start, offset)
	case total >= 0 && total != d.Size:
		err = fmt.Errorf("the registry has %d bytes of it, the manifest says %d", total, d.Size)
	}
	if err == nil {
		// A registry may answer with the whole.
		_, err = io.CopyN(io.Discard, resp.Body, offset-start)
	}
	if err != nil {
		resp.Body.Close()
		return fail(err)
	}
	return resp.Body, nil
}

// span returns where an answer's bytes begin, and how many the whole has, or -1 where it does not say.
func span(resp *http.Response) (start, total int64, err error) {
	if resp.StatusCode != http.StatusPartialContent {
		return 0, resp.ContentLength, nil
	}
	return parseContentRange(resp.Header.Get("Content-Range"))
}

// parseContentRange parses "bytes FIRST-LAST/TOTAL", RFC 9110, section 14.4.
func parseContentRange(v string) (start, total int64, err error) {
	fail := func() (int64, int64, error) { return 0, 0, fmt.Errorf("Content-Range %q is none of bytes", v) }
	spec, ok := strings.CutPrefix(v, "bytes ")
	first, rest, ok1 := strings.Cut(spec, "-")
	last, size, ok2 := strings.Cut(rest, "/")
	if !ok || !ok1 || !ok2 {
		return fail()
	}
	from, err := strconv.ParseUint(first, 10, 62)
	to, err2 := strconv.ParseUint(last, 10, 62)
	if err != nil || err2 != nil || to < from {
		return fail()
	}
	if size == "*" {
		return int64(from), -1, nil
	}
	all, err := strconv.ParseUint(size, 10, 62)
	if err != nil || to >= all {
		return fail()
	}
	return int64(from), int64(all), nil
}

// watching makes the bodies of all answers watched ones.
type watching struct {
	next  http.RoundTripper
	limit time.Duration
}

// RoundTrip implements http.RoundTripper.
func (w *watching) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(req.Context())
	resp, err := w.next.RoundTrip(req.WithContext(ctx))
	if err != nil {
		cancel(nil)
		return nil, err
	}
	resp.Body = &watched{ctx: ctx, cancel: cancel, r: resp.Body, limit: w.limit}
	return resp, nil
}

// watched ends a read that brings nothing for too long. Time in which nobody reads does not count.
type watched struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
	r      io.ReadCloser
	limit  time.Duration
	timer  *time.Timer
}

func (w *watched) Read(p []byte) (int, error) {
	if w.timer == nil {
		w.timer = time.AfterFunc(w.limit, func() { w.cancel(errStalled) })
	} else {
		w.timer.Reset(w.limit)
	}
	n, err := w.r.Read(p)
	w.timer.Stop()
	if err != nil && errors.Is(context.Cause(w.ctx), errStalled) {
		err = fmt.Errorf("%w for %s", errStalled, w.limit)
	}
	return n, err
}

func (w *watched) Close() error {
	w.cancel(nil)
	return w.r.Close()
}

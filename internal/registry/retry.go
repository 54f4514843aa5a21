package registry

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"syscall"
	"time"
)

const (
	// maxAttempts is how often something is asked of a registry, as often as Docker does.
	maxAttempts = 5
	// maxMirrorAttempts is how often a mirror is asked: behind it there is another.
	maxMirrorAttempts = 2
	// firstDelay is before the second attempt; each further delay is twice as long.
	firstDelay = 250 * time.Millisecond
	// maxRetryAfter is the longest wait that a registry may ask for; what asks for more is refused at once.
	maxRetryAfter = time.Minute
)

// retrier asks again, after a delay, when an answer says that it may help, or when there is none.
type retrier struct {
	next     http.RoundTripper
	attempts int
	timeout  time.Duration
	note     func(string)
}

// RoundTrip implements http.RoundTripper. Of the requests that come here none changes anything, so each may be repeated.
func (r *retrier) RoundTrip(req *http.Request) (*http.Response, error) {
	for n := 1; ; n++ {
		try := req
		if n > 1 && req.Body != nil && req.GetBody != nil {
			body, err := req.GetBody()
			if err != nil {
				return nil, err
			}
			try = req.Clone(req.Context())
			try.Body = body
		}
		resp, err := r.next.RoundTrip(try)
		delay := backoff(n)
		switch {
		case n >= r.attempts || req.Context().Err() != nil || req.Body != nil && req.GetBody == nil:
			return resp, err
		case err != nil && !transient(err):
			return nil, err
		case err != nil:
			r.note(fmt.Sprintf("%s: %v; trying again in %s", req.URL.Host, err, delay.Round(time.Millisecond)))
		case !transientStatus(resp.StatusCode):
			return resp, nil
		default:
			if asked := retryAfter(resp, time.Now()); asked > maxRetryAfter {
				return resp, nil
			} else if asked > 0 {
				delay = asked
			}
			r.note(fmt.Sprintf("%s answers %s; trying again in %s", req.URL.Host, resp.Status, delay.Round(time.Millisecond)))
			// So that the connection can be used again.
			_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, maxErrorBody))
			resp.Body.Close()
		}
		if err := sleep(req.Context(), delay); err != nil {
			return nil, err
		}
	}
}

// backoff is the delay after attempt n, spread so that many who failed together do not come back together.
func backoff(n int) time.Duration {
	d := firstDelay << (n - 1)
	return d/2 + rand.N(d) //nolint:gosec // G404: no secret, only not the same for all
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// transientStatus says whether an answer may be another one soon.
func transientStatus(code int) bool {
	switch code {
	case http.StatusRequestTimeout, http.StatusTooManyRequests, http.StatusInternalServerError, http.StatusBadGateway,
		http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	}
	return false
}

// retryAfter is how long an answer asks to wait, in one of the two forms of RFC 9110, section 10.2.3; 0 when it does not.
func retryAfter(resp *http.Response, now time.Time) time.Duration {
	v := resp.Header.Get("Retry-After")
	if seconds, err := strconv.ParseUint(v, 10, 31); err == nil {
		return time.Duration(seconds) * time.Second
	}
	if at, err := http.ParseTime(v); err == nil {
		return max(at.Sub(now), 0)
	}
	return 0
}

// transient says whether a request without an answer may get one at the next try: a connection that broke or stalled. Whom
// nobody knows, who does not listen, or who can't prove who it is does not do so a moment later.
func transient(err error) bool {
	var dns *net.DNSError
	var record tls.RecordHeaderError
	var unknown *tls.CertificateVerificationError
	var authority x509.UnknownAuthorityError
	var alert tls.AlertError
	switch {
	case errors.As(err, &dns):
		return dns.IsTemporary || dns.IsTimeout
	case errors.As(err, &record), errors.As(err, &unknown), errors.As(err, &authority), errors.As(err, &alert):
		return false
	case errors.Is(err, errPlain), errors.Is(err, context.Canceled), errors.Is(err, syscall.ECONNREFUSED):
		return false
	}
	var timeout net.Error
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) ||
		errors.Is(err, syscall.EPIPE) || errors.Is(err, errStalled) || errors.As(err, &timeout)
}

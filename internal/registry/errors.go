package registry

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"unicode"

	"github.com/containerd/errdefs"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// maxErrorBody is what is read, and maxErrorText what is shown of what a registry says of an error, in bytes.
const (
	maxErrorBody = 64 << 10
	maxErrorText = 300
)

// explain says what an error of the registry means, and the way out.
func (p *place) explain(err error) error {
	// Before the answer: this machine is asked in both ways, and what it says to http is of no interest then.
	if certificate, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return fmt.Errorf("registry %s: its certificate is not trusted: %w; if it is yours, set registry.ca_file to its CA's: %w",
			p.host, certificate, errdefs.ErrUnavailable)
	}
	if answer, ok := errors.AsType[*transport.Error](err); ok {
		return p.explainAnswer(answer)
	}
	if dial, ok := errors.AsType[*url.Error](err); ok {
		err = dial.Err // the URL's host is in the message
	}
	var record tls.RecordHeaderError
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, errStalled):
		return fmt.Errorf("registry %s: %w", p.host, err)
	case errors.As(err, &record), strings.Contains(err.Error(), "server gave HTTP response to HTTPS client"):
		return fmt.Errorf("registry %s speaks http without TLS: %w: %w", p.host, errPlain, errdefs.ErrUnavailable)
	}
	return fmt.Errorf("registry %s: %w: %w", p.host, err, errdefs.ErrUnavailable)
}

func (p *place) explainAnswer(answer *transport.Error) error {
	status := fmt.Sprintf("%d %s", answer.StatusCode, http.StatusText(answer.StatusCode))
	said := said(answer)
	if said != "" {
		status += ": " + said
	}
	switch answer.StatusCode {
	case http.StatusUnauthorized:
		if p.user != "" {
			return fmt.Errorf("registry %s refuses the password of %s (%s): log in anew with \"docker login %s\": %w", p.host, p.user,
				status, p.host, errdefs.ErrUnauthenticated)
		}
		return fmt.Errorf("registry %s wants to know who asks for %s (%s): log in with \"docker login %s\"; a repository that does not "+
			"exist may look the same: %w", p.host, p.path, status, p.host, errdefs.ErrUnauthenticated)
	case http.StatusForbidden:
		who := p.user
		if who == "" {
			who = "anybody who is not logged in"
		}
		return fmt.Errorf("registry %s does not give %s to %s (%s): %w", p.host, p.path, who, status, errdefs.ErrPermissionDenied)
	case http.StatusNotFound:
		return fmt.Errorf("registry %s has it not in %s (%s): check name and tag: %w", p.host, p.path, status, errdefs.ErrNotFound)
	case http.StatusTooManyRequests:
		return fmt.Errorf("registry %s has had too many requests (%s): try again later, or log in with \"docker login %s\" for a higher "+
			"limit: %w", p.host, status, p.host, errdefs.ErrResourceExhausted)
	}
	return fmt.Errorf("registry %s answers %s: %w", p.host, status, errdefs.ErrUnavailable)
}

// said is what the registry says of its error, short and fit for a terminal.
func said(answer *transport.Error) string {
	var parts []string
	for _, d := range answer.Errors {
		text := d.Message
		if text == "" {
			text = string(d.Code)
		}
		parts = append(parts, text)
	}
	return clean(strings.Join(parts, "; "), maxErrorText)
}

// clean makes of a text from outside one short printable line.
func clean(text string, most int) string {
	var b strings.Builder
	for _, r := range strings.ToValidUTF8(text, "\uFFFD") {
		if b.Len() >= most {
			b.WriteString("...")
			break
		}
		if !unicode.IsPrint(r) {
			r = ' '
		}
		b.WriteRune(r)
	}
	return strings.TrimSpace(b.String())
}

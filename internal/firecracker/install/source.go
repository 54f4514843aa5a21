package install

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"
)

const (
	// answerTimeout bounds the time to the first byte of an answer, maxRedirects the way to it.
	answerTimeout = 30 * time.Second
	maxRedirects  = 10
)

func isURL(source string) bool {
	return strings.HasPrefix(source, "https://") || strings.HasPrefix(source, "http://")
}

// cutQuery is a URL without its query and fragment; a path stays as it is.
func cutQuery(source string) string {
	if !isURL(source) {
		return source
	}
	source, _, _ = strings.Cut(source, "#")
	source, _, _ = strings.Cut(source, "?")
	return source
}

// local says whether a URL is of this machine.
func local(source string) bool {
	u, err := url.Parse(source)
	if err != nil {
		return false
	}
	ip := net.ParseIP(u.Hostname())
	return u.Hostname() == "localhost" || ip != nil && ip.IsLoopback()
}

// open opens a file or what a URL gives.
func open(ctx context.Context, source string) (io.ReadCloser, error) {
	if !isURL(source) {
		return os.Open(source)
	}
	transport, ok := http.DefaultTransport.(*http.Transport)
	if !ok {
		return nil, errors.New("no HTTP transport")
	}
	transport = transport.Clone()
	transport.ResponseHeaderTimeout = answerTimeout
	client := &http.Client{Transport: transport, CheckRedirect: func(r *http.Request, via []*http.Request) error {
		if len(via) >= maxRedirects {
			return fmt.Errorf("more than %d redirections", maxRedirects)
		}
		if via[0].URL.Scheme == "https" && r.URL.Scheme != "https" {
			return fmt.Errorf("it redirects from https to %s", r.URL.Scheme)
		}
		return nil
	}}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, source, nil)
	if err != nil {
		return nil, err
	}
	answer, err := client.Do(r)
	if err != nil {
		return nil, err
	}
	if answer.StatusCode != http.StatusOK {
		answer.Body.Close()
		return nil, fmt.Errorf("GET %s: %s", source, answer.Status)
	}
	return answer.Body, nil
}

package registry

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// A registry may fall silent in any answer, not only where a blob's bytes are expected.
func TestARegistryThatFallsSilentHoldsNobodyUp(t *testing.T) {
	t.Setenv("DOCKER_CONFIG", t.TempDir())
	for name, code := range map[string]int{"in what is passed over": http.StatusOK, "in an error": http.StatusNotFound} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/v2/" {
				return
			}
			w.Header().Set("Content-Length", "1000")
			w.WriteHeader(code)
			_, _ = w.Write([]byte("some"))
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		}))
		c, err := New(Options{Timeout: time.Second})
		if err != nil {
			t.Fatal(err)
		}
		at := c.places(Reference{Domain: strings.TrimPrefix(server.URL, "http://"), Path: "image"})[0]
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		_, err = at.blob(ctx, ocispec.Descriptor{Digest: digest.FromString("x"), Size: 1000}, 500)
		if !errors.Is(err, errStalled) {
			t.Errorf("%s: %v", name, err)
		}
		cancel()
		c.Close()
		server.Close()
	}
}

//go:build e2e

package registry

import (
	"encoding/base64"
	"encoding/json"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
)

func TestCredentials(t *testing.T) {
	t.Parallel()
	host := startServer(t)
	img := hostImage(t, 40, 1000)
	push(t, img, "private:1")
	name := host + "/private:1"

	refuse(t, newHost(t, user, "wrong", host), name, "registry "+host+" refuses the password of tester (401 Unauthorized", `docker login `+host)
	refuse(t, newHost(t, "", ""), name, "registry "+host+" wants to know who asks for private (401 Unauthorized", `log in with "docker login `+host)
	refuse(t, loggedIn(t, host), host+"/private:2", "404 Not Found: manifest unknown")
	refuse(t, loggedIn(t, host), host+"/nothing:1", "has it not in nothing (404 Not Found")

	// Podman's file, where Docker has none.
	h := newHost(t, "", "")
	configure(t, h, nil)
	file := filepath.Join(t.TempDir(), "auth.json")
	auth := base64.StdEncoding.EncodeToString([]byte(user + ":" + password))
	if err := os.WriteFile(file, must(json.Marshal(map[string]any{"auths": map[string]any{host: map[string]string{"auth": auth}}}))(t), 0o600); err != nil {
		t.Fatal(err)
	}
	h.Env = append(h.Env, "REGISTRY_AUTH_FILE="+file)
	pull(t, h, name)
	whole(t, h, name, img)
}

func TestCredentialHelpers(t *testing.T) {
	t.Parallel()
	host := startServer(t)
	img := hostImage(t, 41, 1000)
	push(t, img, "helped:1")
	name := host + "/helped:1"
	bin := t.TempDir()
	for program, text := range map[string]string{
		// The protocol of docker-credential-helpers: the server on standard input, its credentials on standard output.
		"docker-credential-good": `#!/bin/sh
read -r server
[ "$1 $server" = "get ` + host + `" ] && echo '{"ServerURL":"` + host + `","Username":"` + user + `","Secret":"` + password + `"}'
`,
		"docker-credential-broken": "#!/bin/sh\necho the vault is locked; exit 1\n",
	} {
		if err := os.WriteFile(filepath.Join(bin, program), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for helper, words := range map[string][]string{
		"good":    nil,
		"broken":  {"credentials for registry " + host, "the vault is locked"},
		"missing": {"credentials for registry " + host, "docker-credential-missing"},
	} {
		h := newHost(t, "", "")
		configure(t, h, map[string]any{"credHelpers": map[string]string{host: helper}})
		h.Env = append(h.Env, "PATH="+bin+":"+os.Getenv("PATH"))
		if words != nil {
			refuse(t, h, name, words...)
			continue
		}
		pull(t, h, name)
		whole(t, h, name, img)
	}
}

// Registries of clouds give tokens for a password; the one here is asked through a proxy that does so, and takes only them.
func TestTokens(t *testing.T) {
	t.Parallel()
	p := newProxy(t)
	img := hostImage(t, 42, 1000, 1<<20)
	push(t, img, "tokens:1")
	basic := "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))
	var given, refused atomic.Int32
	p.on(&fault{Path: "/issue", Answer: func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != basic || r.URL.Query().Get("scope") != "repository:tokens:pull" {
			status(401, "UNAUTHORIZED", "wrong password")(w, r)
			return
		}
		given.Add(1)
		_ = json.NewEncoder(w).Encode(map[string]any{"token": "the-token", "expires_in": 60})
	}})
	// What comes with the token goes on to the registry, with the password.
	challenge := &fault{Path: "/v2/"}
	challenge.Answer = func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer the-token" {
			refused.Add(1)
			status(401, "UNAUTHORIZED", "token, please", "WWW-Authenticate", `Bearer realm="http://`+p.Host+`/issue",service="test",scope="repository:tokens:pull"`)(w, r)
			return
		}
		req := must(http.NewRequestWithContext(r.Context(), r.Method, "https://"+server.host+r.URL.Path, nil))(t)
		req.Header = r.Header.Clone()
		req.Header.Set("Authorization", basic)
		resp, err := server.client.RoundTrip(req)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		defer resp.Body.Close()
		maps.Copy(w.Header(), resp.Header)
		w.WriteHeader(resp.StatusCode)
		_, _ = copyBody(w, resp)
	}
	p.on(challenge)
	h := loggedIn(t, p.Host)
	pull(t, h, p.Host+"/tokens:1")
	whole(t, h, p.Host+"/tokens:1", img)
	if given.Load() == 0 || refused.Load() == 0 {
		t.Errorf("%d tokens were given, %d requests were refused", given.Load(), refused.Load())
	}
	refuse(t, newHost(t, user, "wrong", p.Host), p.Host+"/tokens:1", "refuses the password of tester (401 Unauthorized: wrong password)")
}

// A registry on another machine is not spoken to without TLS, not even when it redirects there.
func TestPlainHTTPIsForThisMachineOnly(t *testing.T) {
	t.Parallel()
	p := newProxy(t)
	push(t, hostImage(t, 43, 1000), "redirected:1")
	p.on(&fault{Path: "/blobs/", Answer: func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "http://192.0.2.1"+r.URL.Path, http.StatusTemporaryRedirect)
	}})
	h := loggedIn(t, p.Host)
	refuse(t, h, p.Host+"/redirected:1", "192.0.2.1", "plain http is spoken only with this machine itself")

	// A certificate of a CA that is not known.
	h = loggedIn(t, startServer(t))
	h.Env = append(h.Env, "RUNCVM_REGISTRY_CA_FILE=")
	refuse(t, h, server.host+"/redirected:1", "its certificate is not trusted", "registry.ca_file")
	h.Env = append(h.Env, "RUNCVM_REGISTRY_CA_FILE="+filepath.Join(t.TempDir(), "missing.pem"))
	refuse(t, h, server.host+"/redirected:1", "registry.ca_file", "missing.pem")
	h = loggedIn(t)
	if said := h.Run("pull", "127.0.0.1:1/x").Stderr; !strings.Contains(said, "connection refused") {
		t.Errorf("nobody listens: %s", said)
	}
}

// Package process runs a registry (distribution's, of tools/registry) on the loopback interface, for tests and benchmarks. Legal order:
// Start, then Stop.
package process

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

const (
	// ports are how many are tried: one that was free a moment ago may be taken now.
	ports = 5
	// readyTimeout bounds the wait for the first answer, on a machine that has other things to do.
	readyTimeout = time.Minute
)

// Options are what a registry has. The zero value has neither TLS nor passwords.
type Options struct {
	// Htpasswd is the file of those who are let in.
	Htpasswd string
	// Certificate and Key are files for TLS, which Client trusts.
	Certificate, Key string
	Client           http.RoundTripper
}

// Registry is a process.
type Registry struct {
	// Host is its address with its port.
	Host string

	cmd   *exec.Cmd
	ended chan error
	log   bytes.Buffer
}

// Start starts a program, which keeps all that it has in the directory dir, made when it is missing, and returns once it answers.
func Start(program, dir string, o Options) (*Registry, error) {
	var errs []error
	for range ports {
		r, err := start(program, dir, o)
		if err == nil {
			return r, nil
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

func start(program, dir string, o Options) (*Registry, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	r := &Registry{Host: l.Addr().String(), ended: make(chan error, 1)}
	l.Close()
	text := fmt.Sprintf(`version: 0.1
log: {level: error, accesslog: {disabled: true}}
storage: {filesystem: {rootdirectory: %q}}
`, filepath.Join(dir, "data"))
	if o.Htpasswd != "" {
		text += fmt.Sprintf("auth: {htpasswd: {realm: test, path: %q}}\n", o.Htpasswd)
	}
	tls, scheme := "", "http"
	if o.Certificate != "" {
		tls, scheme = fmt.Sprintf(", tls: {certificate: %q, key: %q}", o.Certificate, o.Key), "https"
	}
	text += fmt.Sprintf("http: {addr: %q%s}\n", r.Host, tls)
	config := filepath.Join(dir, "config.yml")
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return nil, err
	}
	r.cmd = exec.Command(program, "serve", config)
	r.cmd.Env = append(os.Environ(), "OTEL_TRACES_EXPORTER=none")
	r.cmd.Stdout, r.cmd.Stderr = &r.log, &r.log
	if err := r.cmd.Start(); err != nil {
		return nil, fmt.Errorf("%w: make test-programs builds it", err)
	}
	go func() { r.ended <- r.cmd.Wait() }()
	return r, r.await(scheme, o.Client)
}

// await waits for the first answer; without one it stops the process.
func (r *Registry) await(scheme string, transport http.RoundTripper) error {
	client := http.Client{Transport: transport, Timeout: readyTimeout}
	for deadline := time.Now().Add(readyTimeout); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		resp, err := client.Get(scheme + "://" + r.Host + "/v2/")
		if err == nil {
			return resp.Body.Close()
		}
		select {
		case err := <-r.ended:
			return fmt.Errorf("the registry has ended: %w: %s", err, r.log.String())
		default:
		}
	}
	return errors.Join(r.Stop(), fmt.Errorf("the registry does not answer at %s: %s", r.Host, r.log.String()))
}

// Stop kills the process.
func (r *Registry) Stop() error {
	if err := r.cmd.Process.Kill(); err != nil {
		return err
	}
	<-r.ended //nolint:errcheck // it was killed
	return nil
}

//go:build e2e

// Package registry tests pull, save and pull-on-run against a real registry process with TLS and authentication, alone and
// through a proxy that makes faults.
package registry

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/runcvm/runcvm/test/harness"
	"github.com/runcvm/runcvm/test/registry/process"
)

func TestMain(m *testing.M) {
	code := m.Run()
	if server.process != nil {
		_ = server.process.Stop()
	}
	if server.dir != "" {
		_ = os.RemoveAll(server.dir)
	}
	os.Exit(code)
}

// What the registry lets in. The hash is bcrypt's of the password, which the registry wants to have, at its least cost.
const (
	user     = "tester"
	password = "correct horse"
	htpasswd = "tester:$2a$04$edEtCNonjRRNlkjRzm4h2O8a8UnJHxy/OUd/7qLR/HWTl81CtxtxK\n"
)

// server is the registry process that the tests have in common.
var server struct {
	once    sync.Once
	err     error
	dir     string
	process *process.Registry
	host    string // with its port
	caFile  string
	client  *http.Transport // trusts it
}

// startServer starts the registry, once, and returns its host.
func startServer(t testing.TB) string {
	t.Helper()
	program := harness.Program(t, "registry") // which may end the test, as nothing in the Once may
	server.once.Do(func() { server.err = serve(program) })
	if server.err != nil {
		t.Fatal(server.err)
	}
	return server.host
}

func serve(program string) error {
	var err error
	if server.dir, err = os.MkdirTemp("", "runcvm-registry-"); err != nil {
		return err
	}
	if err := makeCertificates(server.dir); err != nil {
		return err
	}
	passwords := filepath.Join(server.dir, "htpasswd")
	if err := os.WriteFile(passwords, []byte(htpasswd), 0o600); err != nil {
		return err
	}
	server.process, err = process.Start(program, server.dir, process.Options{Htpasswd: passwords, Client: server.client,
		Certificate: filepath.Join(server.dir, "cert.pem"), Key: filepath.Join(server.dir, "key.pem")})
	if err == nil {
		server.host = server.process.Host
	}
	return err
}

// makeCertificates makes a CA, a certificate of it for this machine, and a client that trusts it.
func makeCertificates(dir string) error {
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	ca := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"}, NotBefore: time.Now().Add(-24 * time.Hour),
		NotAfter: time.Now().Add(24 * time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	caDER, err := x509.CreateCertificate(rand.Reader, ca, ca, &caKey.PublicKey, caKey)
	if err != nil {
		return err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	leaf := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "registry"}, NotBefore: ca.NotBefore,
		NotAfter: ca.NotAfter, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	der, err := x509.CreateCertificate(rand.Reader, leaf, ca, &key.PublicKey, caKey)
	if err != nil {
		return err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	server.caFile = filepath.Join(dir, "ca.pem")
	for name, block := range map[string]*pem.Block{
		"ca.pem":   {Type: "CERTIFICATE", Bytes: caDER},
		"cert.pem": {Type: "CERTIFICATE", Bytes: der},
		"key.pem":  {Type: "PRIVATE KEY", Bytes: keyDER},
	} {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600); err != nil {
			return err
		}
	}
	pool := x509.NewCertPool()
	parsed, err := x509.ParseCertificate(caDER)
	if err != nil {
		return err
	}
	pool.AddCert(parsed)
	server.client = &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, MaxIdleConnsPerHost: 8, DisableCompression: true}
	return nil
}

// push puts an image or an index into the registry, as repository:tag.
func push(t testing.TB, what any, repository string) {
	t.Helper()
	ref, err := name.ParseReference(startServer(t) + "/" + repository)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), harness.Patience)
	defer cancel()
	options := []remote.Option{remote.WithTransport(server.client), remote.WithContext(ctx),
		remote.WithAuth(&authn.Basic{Username: user, Password: password})}
	switch w := what.(type) {
	case v1.Image:
		err = remote.Write(ref, w, options...)
	case v1.ImageIndex:
		err = remote.WriteIndex(ref, w, options...)
	}
	if err != nil {
		t.Fatal(err)
	}
}

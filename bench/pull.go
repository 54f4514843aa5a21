package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/runcvm/runcvm/test/registry/process"
)

const (
	// pullSize is of the image's layers as they come, in bytes.
	pullSize = 300e6
	// gigabit is what a network of that name carries at most of a TCP stream's bytes, each second: RFC 894 frames of 1538 bytes on
	// the wire have 1448 of them.
	gigabit = 1e9 / 8 * 1448 / 1538
	// pullRepository is where the image lies in the registry.
	pullRepository = "bench"
)

// pullRow pulls a large image to a ready image disk, against curl of the same blobs.
func pullRow(ctx context.Context, b *bench) (_ []Result, err error) {
	dir := filepath.Join(b.dir, "pull")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	server, err := process.Start(filepath.Join(b.bin, "test", "registry"), filepath.Join(dir, "registry"), process.Options{})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, server.Stop()) }()
	r := benchRegistry{server}
	tree, err := b.tree(ctx)
	if err != nil {
		return nil, err
	}
	blobs, err := r.fill(ctx, dir, tree)
	if err != nil {
		return nil, err
	}
	slow, stop, err := throttle(r.Host, gigabit)
	if err != nil {
		return nil, err
	}
	defer stop()
	what := fmt.Sprintf("runcvm pull of an image of %d gzip layers, %.0f MB as they come, from a registry process on the loopback "+
		"interface, to its blobs on stable storage and a ready image disk / curl of the same blobs, four at a time, to files, then syncfs",
		len(blobs), pullSize/1e6)
	var results []Result
	for _, c := range []struct{ name, host, what, remedy string }{
		{"pull-ratio", r.Host, what, "curl only copies; a pull gunzips and digests as well, on all processors, and writes a disk 2.8 " +
			"times as large: more processors would reach the goal, or a network that is no faster than a gigabit, as the next row shows"},
		{"pull-gigabit-ratio", slow, what + "; both through a proxy that lets pass what a gigabit network does",
			"a processor more: registry, proxy and pull share those that there are"},
	} {
		pull := func() (time.Duration, error) { return b.timePull(ctx, dir, c.host) }
		curl := func() (time.Duration, error) { return timeCurl(ctx, dir, c.host, blobs) }
		x, y, err := pairs(b.builds, pull, curl)
		if err != nil {
			return nil, err
		}
		results = append(results, Result{Name: c.name, What: c.what, Unit: "ratio", Goal: new(1.3), Samples: ratios(x, y),
			Raw: map[string][]float64{"pull_s": x, "curl_s": y}, Remedy: c.remedy})
	}
	return results, nil
}

// timePull pulls into empty directories.
func (b *bench) timePull(ctx context.Context, dir, host string) (_ time.Duration, err error) {
	data := filepath.Join(dir, "data")
	defer func() { err = errors.Join(err, os.RemoveAll(data)) }()
	if err := syncFS(dir); err != nil {
		return 0, err
	}
	cmd := b.command(ctx, "pull", "-q", host+"/"+pullRepository+":1")
	cmd.Env = append(cmd.Env, "RUNCVM_DATA_DIR="+data)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	start := time.Now()
	err = cmd.Run()
	took := time.Since(start)
	if err != nil {
		return 0, fmt.Errorf("runcvm pull: %w: %s", err, stderr.Bytes())
	}
	disks, err := filepath.Glob(filepath.Join(data, "disks", "*.erofs"))
	if err == nil && len(disks) != 1 {
		err = fmt.Errorf("the pull made %d image disks", len(disks))
	}
	return took, err
}

// timeCurl gets the blobs as files.
func timeCurl(ctx context.Context, dir, host string, blobs []digest.Digest) (_ time.Duration, err error) {
	out := filepath.Join(dir, "curl")
	if err := os.Mkdir(out, 0o700); err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(out)) }()
	args := []string{"--silent", "--show-error", "--fail", "--parallel", "--parallel-immediate", "--parallel-max", "4", "--remote-name-all",
		"--output-dir", out}
	for _, d := range blobs {
		args = append(args, "http://"+host+"/v2/"+pullRepository+"/blobs/"+d.String())
	}
	if err := syncFS(dir); err != nil {
		return 0, err
	}
	start := time.Now()
	if err := command(ctx, "curl", args...); err != nil {
		return 0, err
	}
	err = syncFS(out)
	return time.Since(start), err
}

// benchRegistry is a registry with the image.
type benchRegistry struct{ *process.Registry }

// fill puts the image into the registry: layers with the whole tree of the test image each, in other places, until there are
// pullSize bytes of them. It returns the layers' digests.
func (r benchRegistry) fill(ctx context.Context, dir, tree string) ([]digest.Digest, error) {
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest}
	config := ocispec.Image{Platform: ocispec.Platform{Architecture: "amd64", OS: "linux"}, RootFS: ocispec.RootFS{Type: "layers"}}
	var blobs []digest.Digest
	for size, i := int64(0), 0; float64(size) < pullSize; i++ {
		part := filepath.Join(dir, "layer")
		move := fmt.Sprintf("s,^\\./,./part-%d/,S", i)
		if err := command(ctx, "tar", "-czf", part, "--numeric-owner", "--transform", move, "-C", tree, "."); err != nil {
			return nil, err
		}
		d, diffID, err := digests(part)
		if err != nil {
			return nil, err
		}
		if left := int64(pullSize) - size; d.Size > 2*left {
			break // nearer to the size without it
		}
		f, err := os.Open(part)
		if err != nil {
			return nil, err
		}
		err = r.upload(ctx, d.Digest, d.Size, io.NopCloser(f))
		if err = errors.Join(err, f.Close(), os.Remove(part)); err != nil {
			return nil, err
		}
		size += d.Size
		blobs, m.Layers = append(blobs, d.Digest), append(m.Layers, d)
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, diffID)
	}
	text, err := json.Marshal(config)
	if err != nil {
		return nil, err
	}
	m.Config = ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: digest.FromBytes(text), Size: int64(len(text))}
	if err := r.upload(ctx, m.Config.Digest, m.Config.Size, bytes.NewReader(text)); err != nil {
		return nil, err
	}
	if text, err = json.Marshal(m); err != nil {
		return nil, err
	}
	to := "http://" + r.Host + "/v2/" + pullRepository + "/manifests/1"
	return blobs, r.do(ctx, http.MethodPut, to, m.MediaType, int64(len(text)), bytes.NewReader(text), nil)
}

// upload puts a blob into the registry in one piece: distribution specification, "POST then PUT".
func (r benchRegistry) upload(ctx context.Context, d digest.Digest, size int64, body io.Reader) error {
	var location string
	err := r.do(ctx, http.MethodPost, "http://"+r.Host+"/v2/"+pullRepository+"/blobs/uploads/", "", 0, nil, &location)
	if err != nil {
		return err
	}
	separator := "?"
	if strings.Contains(location, "?") {
		separator = "&"
	}
	return r.do(ctx, http.MethodPut, location+separator+"digest="+url.QueryEscape(d.String()), "application/octet-stream", size, body, nil)
}

func (r benchRegistry) do(ctx context.Context, method, to, mediaType string, size int64, body io.Reader, location *string) error {
	req, err := http.NewRequestWithContext(ctx, method, to, body)
	if err != nil {
		return err
	}
	req.ContentLength = size
	if mediaType != "" {
		req.Header.Set("Content-Type", mediaType)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusCreated && resp.StatusCode != http.StatusAccepted {
		return fmt.Errorf("%s %s: %s", method, to, resp.Status)
	}
	if location != nil {
		*location = resp.Header.Get("Location")
	}
	return nil
}

// throttle stands before a server and lets pass so many bytes a second, of all connections together. It returns its host.
func throttle(host string, rate float64) (string, func(), error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	limit := &limiter{rate: rate}
	reverse := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: host})
	s := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		reverse.ServeHTTP(limited{w, limit}, r)
	})}
	go func() { _ = s.Serve(l) }() // until it is closed
	return l.Addr().String(), func() { _ = s.Close() }, nil
}

// limiter says when bytes may go.
type limiter struct {
	rate float64
	mu   sync.Mutex
	next time.Time
}

func (l *limiter) wait(n int) {
	l.mu.Lock()
	if now := time.Now(); l.next.Before(now) {
		l.next = now
	}
	l.next = l.next.Add(time.Duration(float64(n) / l.rate * float64(time.Second)))
	until := l.next
	l.mu.Unlock()
	time.Sleep(time.Until(until))
}

type limited struct {
	http.ResponseWriter
	limit *limiter
}

func (l limited) Write(p []byte) (int, error) {
	l.limit.wait(len(p))
	return l.ResponseWriter.Write(p)
}

//go:build e2e

package engine

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// Busybox is the name of an image of Debian's static busybox and udpecho, of some 4 MiB; Nginx of the same with Debian's nginx as its
// command; Docker of the same with Debian's Docker, of some 200 MiB; Volume is Busybox with a volume at /data.
const (
	Busybox = "registry.test/busybox:1"
	Nginx   = "registry.test/nginx:1"
	Docker  = "registry.test/docker:1"
	Volume  = "registry.test/volume:1"
)

// archive is a docker-archive, which Debian's Docker can load, made once for all tests of a process.
type archive struct {
	once sync.Once
	path string
	err  error
	make func() (v1.Image, error)
}

var (
	dir      string // of the archives
	archives = map[string]*archive{
		Busybox: {make: busybox},
		Nginx:   {make: nginx},
		Docker:  {make: docker},
		Volume:  {make: volume},
	}
)

// Main runs a suite and removes the archives. Call it from TestMain.
func Main(m *testing.M) {
	code := 2
	var err error
	if dir, err = os.MkdirTemp("", "runcvm-engines-"); err == nil {
		code = m.Run()
		err = os.RemoveAll(dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = max(code, 1)
	}
	os.Exit(code)
}

// LoadImages brings images of the above to the engine.
func (e *Engine) LoadImages(names ...string) {
	e.t.Helper()
	for _, n := range names {
		e.Load(Archive(e.t, n))
	}
}

// Archive is the path of one of the images above, as a docker-archive.
func Archive(t testing.TB, name string) string {
	t.Helper()
	a := archives[name]
	a.once.Do(func() {
		a.path = filepath.Join(dir, strings.NewReplacer("/", "_", ":", "_").Replace(name)+".tar")
		var img v1.Image
		if img, a.err = a.make(); a.err == nil {
			a.err = WriteArchive(a.path, name, img)
		}
	})
	if a.err != nil {
		t.Fatal(a.err)
	}
	return a.path
}

// WriteArchive writes an image as a docker-archive.
func WriteArchive(path, as string, img v1.Image) error {
	tag, err := name.NewTag(as)
	if err != nil {
		return err
	}
	return tarball.WriteToFile(path, tag, img)
}

func busybox() (v1.Image, error) {
	program, err := os.ReadFile(filepath.Join(os.Getenv("RUNCVM_BIN"), "test", "udpecho"))
	if err != nil {
		return nil, fmt.Errorf("%w: run the e2e suites by make test-e2e", err)
	}
	return BusyboxImage(map[string]string{"/bin/udpecho": string(program)})
}

func volume() (v1.Image, error) {
	img, err := busybox()
	if err != nil {
		return nil, err
	}
	return configured(img, v1.Config{Cmd: []string{"sh"}, Env: []string{"PATH=/bin"}, Volumes: map[string]struct{}{"/data": {}}})
}

// BusyboxImage is an image of Debian's static busybox with further files, which are programs.
func BusyboxImage(files map[string]string) (v1.Image, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	var errs []error
	add := func(h tar.Header, content string) {
		h.Size = int64(len(content))
		errs = append(errs, w.WriteHeader(&h))
		_, err := io.WriteString(w, content)
		errs = append(errs, err)
	}
	for _, d := range []string{"bin", "dev", "etc", "proc", "root", "run", "sys", "tmp", "var"} {
		mode := int64(0o755)
		if d == "tmp" {
			mode = 0o1777
		}
		add(tar.Header{Name: d + "/", Typeflag: tar.TypeDir, Mode: mode}, "")
	}
	program, err := os.ReadFile("/bin/busybox")
	if err != nil {
		return nil, fmt.Errorf("%w: run make setup", err)
	}
	add(tar.Header{Name: "bin/busybox", Typeflag: tar.TypeReg, Mode: 0o755}, string(program))
	applets, err := exec.Command("/bin/busybox", "--list").Output()
	if err != nil {
		return nil, err
	}
	for applet := range strings.FieldsSeq(string(applets)) {
		if applet != "busybox" {
			add(tar.Header{Name: "bin/" + applet, Typeflag: tar.TypeSymlink, Linkname: "busybox", Mode: 0o777}, "")
		}
	}
	add(tar.Header{Name: "etc/passwd", Typeflag: tar.TypeReg, Mode: 0o644}, "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/:/bin/sh\n")
	add(tar.Header{Name: "etc/group", Typeflag: tar.TypeReg, Mode: 0o644}, "root:x:0:\nuser:x:1000:\naudio:x:29:\n")
	for _, n := range slices.Sorted(maps.Keys(files)) {
		add(tar.Header{Name: strings.TrimPrefix(n, "/"), Typeflag: tar.TypeReg, Mode: 0o755}, files[n])
	}
	errs = append(errs, w.Close())
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b.Bytes())), nil })
	if err != nil {
		return nil, err
	}
	img, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		return nil, err
	}
	return configured(img, v1.Config{Cmd: []string{"sh"}, Env: []string{"PATH=/bin"}})
}

func configured(img v1.Image, config v1.Config) (v1.Image, error) {
	file, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	file = file.DeepCopy()
	file.OS, file.Architecture, file.Config = "linux", "amd64", config
	return mutate.ConfigFile(img, file)
}

// nginx is the machine's own, which Debian's package has put there, with the libraries that it is linked with.
func nginx() (v1.Image, error) {
	const program = "/usr/sbin/nginx"
	files := map[string]string{"/etc/nginx.conf": nginxConfig, "/www/index.html": NginxPage}
	if err := addPrograms(files, program); err != nil {
		return nil, err
	}
	img, err := BusyboxImage(files)
	if err != nil {
		return nil, err
	}
	return configured(img, v1.Config{Cmd: []string{program, "-e", "stderr", "-c", "/etc/nginx.conf"}, Env: []string{"PATH=/bin"}})
}

// addPrograms adds the machine's programs with the libraries that they are linked with.
func addPrograms(files map[string]string, programs ...string) error {
	for _, program := range programs {
		// It has a status of its own for a static one, of which it says nothing else.
		libraries, err := exec.Command("ldd", program).Output()
		if exit := new(exec.ExitError); err != nil && !errors.As(err, &exit) {
			return err
		}
		for _, path := range append(strings.Fields(string(libraries)), program) {
			if !strings.HasPrefix(path, "/") {
				continue
			}
			b, err := os.ReadFile(path)
			if err != nil {
				return fmt.Errorf("%w: run make setup", err)
			}
			files[path] = string(b)
		}
	}
	return nil
}

// docker is Debian's Docker in an image: daemon, client, what they start, and busybox as the root of an image to be.
func docker() (v1.Image, error) {
	files := map[string]string{}
	if err := addPrograms(files, "/usr/sbin/dockerd", "/usr/bin/docker", "/usr/bin/containerd", "/usr/bin/containerd-shim-runc-v2",
		"/usr/sbin/runc", "/usr/sbin/xtables-nft-multi"); err != nil {
		return nil, err
	}
	// One program by many names.
	for _, name := range []string{"iptables", "iptables-save", "iptables-restore", "ip6tables"} {
		files["/usr/sbin/"+name] = files["/usr/sbin/xtables-nft-multi"]
	}
	matches, err := filepath.Glob("/usr/lib/x86_64-linux-gnu/xtables/*.so")
	if err != nil {
		return nil, err
	}
	if err := addPrograms(files, matches...); err != nil {
		return nil, err
	}
	if err := addPrograms(files, "/bin/busybox"); err != nil {
		return nil, err
	}
	files["/inner/busybox"] = files["/bin/busybox"]
	delete(files, "/bin/busybox") // is there already
	img, err := BusyboxImage(files)
	if err != nil {
		return nil, err
	}
	return configured(img, v1.Config{Cmd: []string{"sh"}, Env: []string{"PATH=/bin:/usr/bin:/usr/sbin"}})
}

// NginxPage is what Nginx serves.
var NginxPage = strings.Repeat("served by nginx\n", 1000)

const nginxConfig = `daemon off;
user root;
pid /tmp/nginx.pid;
error_log stderr;
events {}
http {
  access_log off;
  client_body_temp_path /tmp/body;
  proxy_temp_path /tmp/proxy;
  fastcgi_temp_path /tmp/fastcgi;
  uwsgi_temp_path /tmp/uwsgi;
  scgi_temp_path /tmp/scgi;
  server {
    listen 80;
    listen [::]:80;
    root /www;
  }
}
`

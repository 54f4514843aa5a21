// Package bundle reads OCI bundles: a directory with config.json, which engines write. What becomes of each of its fields is data
// (Fields); what cannot be given is refused by the field's path, all of it at once, and nothing is dropped in silence.
//
// Load first; the other calls are legal at any time after it and change nothing.
package bundle

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"unicode/utf8"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

const (
	// configFile is where the specification of a bundle lies (runtime-spec, bundle.md).
	configFile = "config.json"
	// maxConfig bounds it, in bytes; the guest takes as much.
	maxConfig = 16 << 20
)

// Bundle is a bundle whose every field can be given.
type Bundle struct {
	// Dir is the bundle's directory, absolute.
	Dir string
	// Spec is config.json as it is.
	Spec *specs.Spec
	// Rootfs is the container's root file system on the host, absolute.
	Rootfs string
	// Notes say what is met otherwise or ignored, a line each, for the container's log.
	Notes []string

	copies []Copy
	shm    map[string]int64 // sizes of the engine's own /dev/shm, by the source's path
}

// Load reads the bundle in dir and says what of it cannot be given: all faults are in one error, each with the field's path and
// what to do instead.
//
// A monitor is the first process of its pid namespace and lives in the container's network namespace, which it cannot tell from the
// host's: whoever runs a monitor has looked at that before.
func Load(dir string) (*Bundle, error) { return load(dir, os.Getpid() == 1) }

func load(dir string, monitor bool) (*Bundle, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("bundle: %w", err)
	}
	raw, err := readConfig(filepath.Join(dir, configFile))
	if err != nil {
		return nil, err
	}
	b, r, err := parse(raw)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(dir, configFile), err)
	}
	b.Dir = dir
	b.look(r)
	if !monitor {
		b.lookAtNetwork(r)
	}
	if err := r.err(); err != nil {
		return nil, fmt.Errorf("%s cannot be run as it is:\n%w", filepath.Join(dir, configFile), err)
	}
	b.Notes = r.notes
	return b, nil
}

func readConfig(path string) ([]byte, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		// In these words since an engine takes those of the kernel's for the container's program.
		return nil, fmt.Errorf("JSON specification file %s not found: name a bundle's directory by --bundle", path)
	}
	if err != nil {
		return nil, fmt.Errorf("bundle: %w", err)
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, maxConfig+1))
	if err == nil && len(raw) > maxConfig {
		err = fmt.Errorf("%s: more than %d bytes", path, maxConfig)
	}
	return raw, err
}

// parse is Load without the host's file system. The error is of what is no specification at all.
func parse(raw []byte) (*Bundle, *report, error) {
	if !utf8.Valid(raw) {
		return nil, nil, errors.New("it is not UTF-8, as JSON is")
	}
	var spec *specs.Spec
	d := json.NewDecoder(bytes.NewReader(raw))
	if err := d.Decode(&spec); err != nil {
		return nil, nil, fmt.Errorf("it is no specification: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, nil, errors.New("it is no specification: something follows its end")
	}
	if spec == nil {
		return nil, nil, errors.New("it is no specification: null")
	}
	b := &Bundle{Spec: spec, shm: map[string]int64{}}
	r := b.judge()
	for _, where := range unknown(raw, reflect.TypeFor[specs.Spec](), "") {
		r.note(where, "no property of runtime-spec %s; ignored, as that asks for", specs.Version)
	}
	for _, check := range checks {
		check(b, r)
	}
	return b, r, nil
}

// judge looks at each field that is present by its row.
func (b *Bundle) judge() *report {
	r := &report{}
	walk(reflect.ValueOf(b.Spec), "", "", func(f Field, where string) {
		switch f.Place {
		case Refused:
			r.refuse(where, "%s", f.Text)
		case Met:
			r.note(where, "%s", f.Text)
		}
	})
	return r
}

// look checks what the bundle names on the host.
func (b *Bundle) look(r *report) {
	if b.Spec.Root != nil && b.Spec.Root.Path != "" {
		b.Rootfs = b.onHost(b.Spec.Root.Path)
		switch info, err := os.Stat(b.Rootfs); {
		case err != nil:
			r.refuse("root.path", "%s: %s", b.Rootfs, reason(err))
		case !info.IsDir():
			r.refuse("root.path", "%s is no directory", b.Rootfs)
		}
	}
	b.lookAtMounts(r)
}

// report collects what checks find.
type report struct {
	faults []error
	notes  []string
}

func (r *report) err() error { return errors.Join(r.faults...) }

func (r *report) refuse(where, format string, args ...any) {
	r.faults = append(r.faults, fmt.Errorf("%s: %s", where, fmt.Sprintf(format, args...)))
}

func (r *report) note(where, format string, args ...any) {
	r.notes = append(r.notes, where+": "+fmt.Sprintf(format, args...))
}

package oci

import (
	"errors"
	"slices"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/runcvm/runcvm/internal/guestapi"
)

func TestTheCommandFollowsDockersRules(t *testing.T) {
	image := ocispec.ImageConfig{Entrypoint: []string{"/entry"}, Cmd: []string{"a", "b"}}
	for name, c := range map[string]struct {
		image ocispec.ImageConfig
		opt   Options
		want  []string
	}{
		"image's":                      {image, Options{}, []string{"/entry", "a", "b"}},
		"cmd replaced":                 {image, Options{Cmd: []string{"x", ""}}, []string{"/entry", "x", ""}},
		"entrypoint replaced":          {image, Options{Entrypoint: []string{"/other"}}, []string{"/other"}},
		"both replaced":                {image, Options{Entrypoint: []string{"/other"}, Cmd: []string{"x"}}, []string{"/other", "x"}},
		"entrypoint taken away":        {image, Options{Entrypoint: []string{""}, Cmd: []string{"x"}}, []string{"x"}},
		"no entrypoint in the image":   {ocispec.ImageConfig{Cmd: []string{"sh"}}, Options{}, []string{"sh"}},
		"newlines, quotes, odd dashes": {ocispec.ImageConfig{}, Options{Cmd: []string{"-x", "a\nb", `"'`, "é"}}, []string{"-x", "a\nb", `"'`, "é"}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := Resolve(c.image, c.opt)
			if err != nil || !slices.Equal(got.Args, c.want) {
				t.Errorf("got %q, %v, want %q", got.Args, err, c.want)
			}
		})
	}
}

func TestTheStopSignalIsTheImagesOrSIGTERM(t *testing.T) {
	for name, want := range map[string]int{"": 15, "SIGINT": 2, "quit": 3, "9": 9, "SIGRTMIN+3": 37} {
		c, err := Resolve(ocispec.ImageConfig{Cmd: []string{"x"}, StopSignal: name}, Options{})
		if err != nil || int(c.StopSignal) != want {
			t.Errorf("%q gives %d, %v, want %d", name, c.StopSignal, err, want)
		}
	}
	if _, err := Resolve(ocispec.ImageConfig{Cmd: []string{"x"}, StopSignal: "SIGNONE"}, Options{}); err == nil {
		t.Error("SIGNONE was accepted")
	}
}

func TestNoCommandIsAnErrorAndNeverAShell(t *testing.T) {
	for _, opt := range []Options{{}, {Entrypoint: []string{""}}} {
		c, err := Resolve(ocispec.ImageConfig{}, opt)
		if !errors.Is(err, ErrNoCommand) || len(c.Args) != 0 {
			t.Errorf("got %q, %v", c.Args, err)
		}
	}
}

func TestAllFaultsAreReportedAtOnce(t *testing.T) {
	_, err := Resolve(ocispec.ImageConfig{}, Options{
		Cmd: []string{"ok", "bad\xff", "nul\x00"}, Env: []string{"NOVALUE"}, Cwd: "relative", Hostname: "two words", Tmpfs: []string{"tmp", "/"},
	})
	if err == nil {
		t.Fatal("accepted")
	}
	for _, part := range []string{"argument 1", "UTF-8", "argument 2", "NUL", "NOVALUE", "relative", "two words", `tmpfs "tmp"`, `tmpfs "/"`} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%q is not in: %v", part, err)
		}
	}
}

func TestTheEnvironmentHasOneEntryAName(t *testing.T) {
	c, err := Resolve(ocispec.ImageConfig{Env: []string{"PATH=/image", "A=1"}}, Options{Cmd: []string{"x"}, Env: []string{"A=2", "B=x=y"}, Hostname: "h"})
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"PATH=/image", "HOSTNAME=h", "A=2", "B=x=y"}; !slices.Equal(c.Env, want) {
		t.Errorf("got %q, want %q", c.Env, want)
	}
	if v, ok := c.Lookup("B"); v != "x=y" || !ok {
		t.Errorf("Lookup(B) = %q, %t", v, ok)
	}
	if _, ok := c.Lookup("C"); ok {
		t.Error("C was found")
	}
}

func TestTheSpecificationCarriesTheContainerWithoutItsCommand(t *testing.T) {
	c, err := Resolve(ocispec.ImageConfig{User: "app"}, Options{
		Cmd: []string{"secret-command"}, Cwd: "/w/../x", ReadOnly: true, Tmpfs: []string{"/t:size=1m,mode=700"}, Limits: Limits{Memory: 64 << 20, CPUs: 1.5},
	})
	if err != nil {
		t.Fatal(err)
	}
	s := Spec(c)
	if s.Process.Args != nil {
		t.Errorf("process.args is %q", s.Process.Args)
	}
	if s.Process.Cwd != "/x" || !s.Root.Readonly || s.Annotations[guestapi.UserAnnotation] != "app" {
		t.Errorf("cwd %q, root %+v, annotations %v", s.Process.Cwd, s.Root, s.Annotations)
	}
	last := s.Mounts[len(s.Mounts)-1]
	if last.Destination != "/t" || !slices.Equal(last.Options, []string{"nosuid", "nodev", "noexec", "size=1m", "mode=700"}) {
		t.Errorf("tmpfs %+v", last)
	}
	if *s.Linux.Resources.Memory.Limit != 64<<20 || *s.Linux.Resources.CPU.Quota != 150_000 {
		t.Errorf("resources %+v", s.Linux.Resources)
	}
	for _, ns := range s.Linux.Namespaces {
		if ns.Path != "" {
			t.Errorf("a path of the host in namespace %+v", ns)
		}
	}
}

package cli

import (
	"strings"
	"testing"
	"time"

	"github.com/runcvm/runcvm/internal/container"
)

type formatRow struct {
	ID   string
	Name string
	Tags []string
	Deep struct{ Number int } `json:"-"`
}

func rows() []formatRow {
	a, b := formatRow{ID: "1", Name: "<a>"}, formatRow{ID: "22", Name: "b", Tags: []string{"x", "y"}}
	b.Deep.Number = 7
	return []formatRow{a, b}
}

func TestAListIsPrintedInEveryFormat(t *testing.T) {
	for _, c := range []struct {
		format string
		quiet  bool
		want   string
	}{
		{"table", false, "THE ID    NAME\n1         <a>\n22        b\n"},
		{"", false, "THE ID    NAME\n1         <a>\n22        b\n"},
		{"table", true, "1\n22\n"},
		{"json", false, `{"ID":"1","Name":"<a>","Tags":null}` + "\n" + `{"ID":"22","Name":"b","Tags":["x","y"]}` + "\n"},
		{"{{.ID}}", true, "1\n22\n"},
		{`{{.ID}}\t{{json .Deep}}`, false, "1\t{\"Number\":0}\n22\t{\"Number\":7}\n"},
		{`table {{.Name}}\t{{upper .ID}}`, false, "NAME      THE ID\n<a>       1\nb         22\n"},
		{`table {{.Deep.Number}} {{join .Tags ","}}`, false, "NUMBER TAGS\n0 \n7 x,y\n"},
		{`{{truncate (pad .Name 1 2) 3}}|{{title "ab"}}|{{lower "C"}}|{{index (split "a,b" ",") 1}}`, false, " <a|Ab|c|b\n b |Ab|c|b\n"},
	} {
		l := listing{columns: "{{.ID}}\t{{.Name}}", name: "{{.ID}}", headings: map[string]string{"ID": "THE ID"}, format: c.format, quiet: c.quiet}
		var b strings.Builder
		if err := printRows(&b, &l, rows()); err != nil || b.String() != c.want {
			t.Errorf("%q: %v\n%q, want\n%q", c.format, err, b.String(), c.want)
		}
	}
}

func TestAWrongTemplateIsRefusedBeforeAnythingIsPrinted(t *testing.T) {
	for _, format := range []string{"{{", "{{.Colour}}", "{{nonsense .ID}}", "table {{.Colour}}"} {
		l := listing{columns: "{{.ID}}", format: format}
		var b strings.Builder
		if err := printRows(&b, &l, rows()); err == nil || !strings.Contains(err.Error(), "--format") || b.Len() > 0 {
			t.Errorf("%q: %v, %q", format, err, b.String())
		}
	}
}

func TestObjectsArePrintedAsDockerInspectDoes(t *testing.T) {
	objects := []map[string]any{{"Id": "1", "State": map[string]any{"Pid": 7}}}
	for format, want := range map[string]string{
		"":                           "[\n    {\n        \"Id\": \"1\",\n        \"State\": {\n            \"Pid\": 7\n        }\n    }\n]\n",
		"json":                       `[{"Id":"1","State":{"Pid":7}}]` + "\n",
		`{{.Id}}\t{{json .State}}`:   "1\t{\"Pid\":7}\n",
		"{{.State.Pid}}{{println}}-": "7\n-\n",
	} {
		var b strings.Builder
		if err := printObjects(&b, format, objects); err != nil || b.String() != want {
			t.Errorf("%q: %v %q, want %q", format, err, b.String(), want)
		}
	}
	var b strings.Builder
	if err := printObjects(&b, "{{.Colour}}", objects); err == nil || b.Len() > 0 {
		t.Errorf("a name that is not there: %v, %q", err, b.String())
	}
	if err := printObjects[int](&b, "", nil); err != nil || b.String() != "[]\n" {
		t.Errorf("nothing found is %q, %v", b.String(), err)
	}
}

func TestFiltersOfContainers(t *testing.T) {
	entry := func(id, name, state, image string, code int) *container.Entry {
		return &container.Entry{Record: container.Record{ID: id, Name: name, State: state, Image: image, ExitCode: code,
			ImageDigest: "sha256:feed" + id}}
	}
	all := []*container.Entry{entry("aa1", "web", "running", "debian:12", 0), entry("ab2", "web-2", "stopped", "alpine", 3),
		entry("bb3", "db", "paused", "docker.io/library/alpine:latest", 0), entry("cc4", "job", "stopped", "x", 0)}
	for _, c := range []struct{ given, want string }{
		{"", "web web-2 db job"},
		{"id=a", "web web-2"},
		{"name=web", "web web-2"},
		{"name=^web$", "web"},
		{"status=exited", "web-2 job"},
		{"status=exited status=paused", "web-2 db job"},
		{"status=exited name=web", "web-2"},
		{"exited=3", "web-2"},
		{"exited=0", "job"},
		{"ancestor=alpine", "web-2 db"},
		{"ancestor=feedaa1", "web"},
	} {
		match, err := containerFilters.compile(strings.Fields(c.given))
		if err != nil {
			t.Errorf("%q: %v", c.given, err)
			continue
		}
		var got []string
		for _, e := range all {
			if match(e) {
				got = append(got, e.Name)
			}
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%q finds %v, want %s", c.given, got, c.want)
		}
	}
	_, err := containerFilters.compile([]string{"colour=red", "status=sleepy", "name=(", "id"})
	for _, part := range []string{"colour", "ancestor, exited", `"sleepy" is none of created`, "name", `"id" is not NAME=VALUE`} {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("%q is not in: %v", part, err)
		}
	}
}

func TestStatusIsDockers(t *testing.T) {
	ago := time.Now().Add(-5 * time.Minute)
	for want, r := range map[string]container.Record{
		"Up 5 minutes":             {State: "running", Started: ago},
		"Up 5 minutes (Paused)":    {State: "paused", Started: ago},
		"Created":                  {State: "creating"},
		"Exited (3) 5 minutes ago": {State: "stopped", ExitCode: 3, Finished: ago},
		"Exited (137) 5 minutes ago, out of memory": {State: "stopped", ExitCode: 137, Finished: ago, OOMKilled: true},
		"Restarting (4) 5 minutes ago":              {State: container.Restarting, ExitCode: 4, Finished: ago},
	} {
		if got := containerStatus(&container.Entry{Record: r}); got != want {
			t.Errorf("%+v is %q, want %q", r, got, want)
		}
	}
}

package main

import (
	"bytes"
	_ "embed"
	"strings"

	"github.com/runcvm/runcvm/test/engines/differences"
)

//go:embed differences.md.tmpl
var differencesText string

// names are what people call the suite's engines.
var names = strings.NewReplacer("docker*", "Docker", "docker-20.10", "Docker 20.10", "docker", "current Docker", "podman", "Podman",
	"|", ", ")

// differencesMarkdown is docs/differences.md.
func differencesMarkdown() ([]byte, error) {
	rows, err := differences.Read()
	if err != nil {
		return nil, err
	}
	for i, r := range rows {
		if r.Engines == "" {
			r.Engines = "docker*|podman"
		}
		rows[i].Engines = names.Replace(r.Engines)
	}
	t, err := parse(differencesText)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	err = t.Execute(&b, rows)
	return append(bytes.TrimSpace(b.Bytes()), '\n'), err
}

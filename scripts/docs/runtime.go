package main

import (
	"bytes"
	_ "embed"
	"strings"

	"github.com/runcvm/runcvm/internal/bundle"
)

//go:embed oci-runtime.md.tmpl
var runtimeText string

// runtimePage is what docs/oci-runtime.md is filled with.
type runtimePage struct {
	Fields                            []bundle.Field
	Namespaces                        []bundle.Namespace
	KernelTypes, EngineFiles, Devices string
}

func runtimeMarkdown() ([]byte, error) {
	t, err := parse(runtimeText)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	err = t.Execute(&b, runtimePage{
		Fields: bundle.Fields, Namespaces: bundle.Namespaces,
		KernelTypes: code(bundle.KernelTypes), EngineFiles: code(bundle.EngineFiles), Devices: code(bundle.GuestDevices()),
	})
	return append(bytes.TrimSpace(b.Bytes()), '\n'), err
}

// code lists names, each as code.
func code(names []string) string { return "`" + strings.Join(names, "`, `") + "`" }

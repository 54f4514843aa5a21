package cni

import (
	"context"
	"encoding/json"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/runcvm/runcvm/internal/network"
)

// systemPath is where plugins find iptables: it is not in the PATH of everybody who may be root.
const systemPath = "/usr/sbin:/sbin"

// executor runs the plugins of one network in the host's network namespace.
//
// The library keeps the result of a network when its last plugin is done. A monitor may be killed before, and a plugin like firewall
// undoes nothing without: so each plugin's result is kept as well, and given to those that undo.
type executor struct {
	invoke.DefaultExec
	// namespace is the path of the host's; empty: the calling process's.
	namespace string
	// added keeps the result of a plugin that has connected the container.
	added func(result []byte) error
	// result is the last one that was kept; empty: none.
	result json.RawMessage
}

// newExecutor returns one that runs plugins in the namespace at a path, or with an empty one in the calling process's.
func newExecutor(namespace string, result json.RawMessage, added func([]byte) error) *executor {
	return &executor{
		DefaultExec: invoke.DefaultExec{RawExec: &invoke.RawExec{}, PluginDecoder: version.PluginDecoder{}},
		namespace:   namespace, result: result, added: added,
	}
}

// ExecPlugin implements invoke.Exec.
func (e *executor) ExecPlugin(ctx context.Context, path string, stdin []byte, environ []string) (out []byte, err error) {
	if slices.Contains(environ, "CNI_COMMAND=DEL") {
		if stdin, err = withResult(stdin, e.result); err != nil {
			return nil, err
		}
	}
	run := func() error {
		out, err = e.DefaultExec.ExecPlugin(ctx, path, stdin, withSystemPath(environ))
		return err
	}
	if e.namespace == "" {
		err = run()
	} else {
		err = network.In(e.namespace, run)
	}
	if err == nil && slices.Contains(environ, "CNI_COMMAND=ADD") {
		err = e.added(out)
	}
	return out, err
}

// withSystemPath adds systemPath to an environment.
func withSystemPath(environ []string) []string {
	environ = slices.Clone(environ)
	i := slices.IndexFunc(environ, func(v string) bool { return strings.HasPrefix(v, "PATH=") })
	if i < 0 {
		return append(environ, "PATH="+systemPath+":/usr/bin:/bin")
	}
	environ[i] += ":" + systemPath
	return environ
}

// withResult adds a result to a plugin's configuration, unless there is one.
func withResult(config []byte, result json.RawMessage) ([]byte, error) {
	const key = "prevResult" // the CNI specification, section 1
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(config, &fields); err != nil || len(result) == 0 || fields[key] != nil {
		return config, err
	}
	fields[key] = result
	return json.Marshal(fields)
}

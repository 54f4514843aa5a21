package ocicli

import (
	"encoding/json"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/runcvm/runcvm/internal/config"
	"github.com/runcvm/runcvm/internal/container"
)

var (
	// runtimeVerbs are those that only a runtime has.
	runtimeVerbs = []string{"state", "delete", "list", "resume", "update", "spec", "features", "checkpoint", "restore", execVerb}
	// sharedVerbs are a runtime's for a container that an OCI create has made, and people's for others.
	sharedVerbs = []string{"start", "kill", "exec", "ps", "pause", "events"}
	// peoplesGlobals are flags before the verb that people have, too.
	peoplesGlobals = []string{"data-dir", "run-dir", "log-level", "help", "version"}
	// peoplesFlags are flags of verbs that people's verbs of the same name have, too.
	peoplesFlags = []string{"detach", "env", "user", "tty", "help", "all", "format"}
)

// Wants says whether a command line is a runtime's: a runtime's flag comes before the verb, or the verb or one of its flags is a
// runtime's only, or it is about a container that a runtime's create has made.
func Wants(args []string) bool {
	a := &app{flags: map[string]*string{}}
	root := a.command()
	globals, rest := splitFlags(root.PersistentFlags(), args)
	if slices.ContainsFunc(globals, func(f string) bool { return !slices.Contains(peoplesGlobals, f) }) {
		return true
	}
	if len(rest) == 0 {
		return false
	}
	verb, rest := rest[0], rest[1:]
	if slices.Contains(runtimeVerbs, verb) {
		return true
	}
	cmd := verbOf(root, verb)
	if cmd == nil {
		return false
	}
	flags, rest := splitFlags(cmd.Flags(), rest)
	if slices.ContainsFunc(flags, func(f string) bool { return !slices.Contains(peoplesFlags, f) }) {
		return verb == "create" || verb == "run" || verb == "exec"
	}
	switch {
	case verb == "create" || verb == "run":
		return len(rest) == 1 && len(flags) == 0 && isBundle("config.json")
	case slices.Contains(sharedVerbs, verb) && len(rest) > 0:
		return made(rest[0])
	}
	return false
}

func verbOf(root *cobra.Command, verb string) *cobra.Command {
	for _, c := range root.Commands() {
		if c.Name() == verb {
			return c
		}
	}
	return nil
}

// splitFlags takes the flags that a set knows from the beginning of arguments, and returns their names and what follows. It ends at
// a flag that the set does not know.
func splitFlags(set *pflag.FlagSet, args []string) (names, rest []string) {
	for len(args) > 0 && strings.HasPrefix(args[0], "-") && args[0] != "-" && args[0] != "--" {
		name, _, hasValue := strings.Cut(strings.TrimLeft(args[0], "-"), "=")
		f := set.Lookup(name)
		if !strings.HasPrefix(args[0], "--") {
			if f = nil; len(name) == 1 {
				f = set.ShorthandLookup(name)
			}
		}
		if f == nil {
			return names, args
		}
		names, args = append(names, f.Name), args[1:]
		if !hasValue && f.NoOptDefVal == "" && len(args) > 0 {
			args = args[1:]
		}
	}
	return names, args
}

// isBundle says whether a file is a bundle's specification.
func isBundle(path string) bool {
	text, err := os.ReadFile(path)
	var spec struct {
		Version string `json:"ociVersion"`
	}
	return err == nil && json.Unmarshal(text, &spec) == nil && spec.Version != ""
}

// made says whether a runtime's create without --root has made the container that is called so.
func made(id string) bool {
	if checkID(id) != nil {
		return false
	}
	cfg, err := config.Load(os.LookupEnv)
	if err != nil {
		return false
	}
	_, err = container.New(cfg.DataDir, cfg.RunDir).FindBundle(defaultRoot, id)
	return err == nil
}

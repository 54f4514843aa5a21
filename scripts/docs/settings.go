package main

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/runcvm/runcvm/internal/config"
)

// settingsFile is a configuration file with every setting at its default, in a comment: what a package installs for people to edit.
func settingsFile(settings []config.Value) []byte {
	var b bytes.Buffer
	b.WriteString("# Settings of RunCVM, each with its default. \"runcvm config show\" prints those in force; variables of the " +
		"environment and\n# flags go before what is set here. See runcvm(1).\n")
	// What is in no table stands ahead of the first.
	settings = slices.Clone(settings)
	slices.SortStableFunc(settings, func(a, b config.Value) int {
		return strings.Count(a.Key, ".") - strings.Count(b.Key, ".")
	})
	table := ""
	for _, s := range settings {
		key := s.Key
		if t, k, ok := strings.Cut(s.Key, "."); ok {
			if key = k; t != table {
				table = t
				fmt.Fprintf(&b, "\n[%s]\n", table)
			}
		}
		value := s.Value
		if _, err := strconv.ParseInt(value, 10, 64); err != nil && value != "true" && value != "false" {
			value = strconv.Quote(value)
		}
		fmt.Fprintf(&b, "\n# %s ($%s)\n#%s = %s\n", s.Doc, s.Env, key, value)
	}
	return b.Bytes()
}

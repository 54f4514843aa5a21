package cli

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/runcvm/runcvm/internal/container"
	"github.com/runcvm/runcvm/internal/kernel"
)

// Command returns the tree of commands for those who describe it: man pages, documentation, completion.
func Command() *cobra.Command { return newApp().root() }

func (a *app) completionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "completion bash|zsh|fish",
		Short: "Print a script that lets a shell complete verbs, flags, and names of containers and images",
		Long: "Print a script that lets a shell complete verbs, flags, and names of containers and images. \"make install\" puts it\n" +
			"where shells look for it. For this shell only:\n\n" +
			"    bash: source <(runcvm completion bash)       (needs the package bash-completion)\n" +
			"    zsh:  source <(runcvm completion zsh)        (after compinit)\n" +
			"    fish: runcvm completion fish | source",
		ValidArgs: []string{"bash", "zsh", "fish"},
		Args:      cobra.MatchAll(cobra.ExactArgs(1), cobra.OnlyValidArgs),
		// A configuration that is wrong must not keep a shell from starting.
		PersistentPreRunE: func(*cobra.Command, []string) error { return nil },
		RunE: func(cmd *cobra.Command, args []string) error {
			switch args[0] {
			case "bash":
				return cmd.Root().GenBashCompletionV2(a.stdout, true)
			case "zsh":
				return cmd.Root().GenZshCompletion(a.stdout)
			case "fish":
				return cmd.Root().GenFishCompletion(a.stdout, true)
			}
			return fmt.Errorf("there is no completion for %q", args[0])
		},
	}
}

// completeArguments lets shells complete the arguments of every verb by the words of its Use: CONTAINER and IMAGE are looked
// up, anything else is left to the verb, and PATH, FILE and DIR to the shell.
func (a *app) completeArguments(cmd *cobra.Command) {
	completeFlags(cmd)
	for _, sub := range cmd.Commands() {
		a.completeArguments(sub)
	}
	if cmd.ValidArgsFunction != nil || cmd.ValidArgs != nil || cmd.HasSubCommands() {
		return
	}
	places := argumentPlaces(cmd.Use)
	cmd.ValidArgsFunction = func(cmd *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		place := ""
		switch {
		case len(args) < len(places):
			place = places[len(args)]
		case len(places) > 0 && strings.HasSuffix(places[len(places)-1], "..."):
			place = places[len(places)-1]
		}
		switch strings.TrimSuffix(place, "...") {
		case "CONTAINER":
			return a.completeContainers(args), cobra.ShellCompDirectiveNoFileComp
		case "CONTAINER:SRC_PATH":
			// Or a path here, which the shell completes where no container's name begins so.
			var places []cobra.Completion
			for _, c := range a.completeContainers(nil) {
				name, what, _ := strings.Cut(c, "\t")
				places = append(places, cobra.CompletionWithDesc(name+":", what))
			}
			return places, cobra.ShellCompDirectiveNoSpace
		case "NAME", "NAME|PATH":
			if cmd.Parent().Name() == "kernel" {
				return a.completeKernels(), cobra.ShellCompDirectiveDefault
			}
		case "IMAGE", "REPOSITORY[:TAG]":
			return a.completeImages(cmd.Context(), args), cobra.ShellCompDirectiveNoFileComp
		case "":
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return nil, cobra.ShellCompDirectiveDefault
	}
}

// flagValues are what flags take of these names, on whatever verb.
var flagValues = map[string][]string{
	"format": {"table", "json"}, "log-level": {"debug", "info", "warn", "error"}, "source": {"output", "console", "vmm", "monitor"},
	"pull": {"missing", "always", "never"}, "restart": {"no", "on-failure", "always", "unless-stopped"},
}

func completeFlags(cmd *cobra.Command) {
	for name, values := range flagValues {
		if cmd.Flags().Lookup(name) != nil || cmd.PersistentFlags().Lookup(name) != nil {
			// It fails only for a flag that there is not, or that a verb has described itself.
			_ = cmd.RegisterFlagCompletionFunc(name, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp))
		}
	}
}

// argumentPlaces are the words of a Use that stand for arguments: "run [flags] IMAGE [COMMAND [ARG...]]" has IMAGE, COMMAND and
// ARG....
func argumentPlaces(use string) []string {
	var places []string
	for _, word := range strings.Fields(use)[1:] {
		// An optional word loses its brackets, one with brackets inside, as in NAME[:TAG], keeps those.
		for strings.HasPrefix(word, "[") {
			word = strings.TrimPrefix(word, "[")
		}
		for strings.Count(word, "]") > strings.Count(word, "[") {
			word = strings.TrimSuffix(word, "]")
		}
		if word != "flags" && word != "" {
			places = append(places, word)
		}
	}
	return places
}

// completeContainers are the names of containers, without those that stand in the line already. A shell that completes shows
// no errors, so there are no candidates then.
func (a *app) completeContainers(given []string) []cobra.Completion {
	if a.configure() != nil {
		return nil
	}
	entries, err := a.containers().List()
	if err != nil {
		return nil
	}
	var names []cobra.Completion
	for _, e := range entries {
		named := func(g string) bool { return g == e.Name || g == e.ID || g == container.Short(e.ID) }
		if !slices.ContainsFunc(given, named) {
			names = append(names, cobra.CompletionWithDesc(e.Name, e.Image+", "+strings.ToLower(containerStatus(e))))
		}
	}
	return names
}

func (a *app) completeKernels() []cobra.Completion {
	if a.configure() != nil {
		return nil
	}
	kernels, err := kernel.List(a.kernelsDir())
	if err != nil {
		return nil
	}
	var names []cobra.Completion
	for _, k := range kernels {
		names = append(names, cobra.CompletionWithDesc(k.Name, k.Release))
	}
	return names
}

func (a *app) completeImages(ctx context.Context, given []string) []cobra.Completion {
	if a.configure() != nil {
		return nil
	}
	// To look must not make the store.
	if _, err := os.Stat(filepath.Join(a.cfg.DataDir, "images")); err != nil {
		return nil
	}
	store, err := a.images()
	if err != nil {
		return nil
	}
	images, err := store.List(ctx)
	if err != nil {
		return nil
	}
	var names []cobra.Completion
	for _, i := range images {
		if !slices.ContainsFunc(given, func(g string) bool { return fullName(g) == i.Name }) {
			names = append(names, strings.TrimSuffix(i.Name, ":latest"))
		}
	}
	return names
}

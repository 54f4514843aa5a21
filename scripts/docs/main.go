// Docs writes what is said of the command from the command itself: docs/command.md, man pages, completions, and a file of settings;
// what becomes of a bundle's fields from their table; and what differs from runc from the engines' suite's.
//
//	docs -markdown docs/command.md -runtime docs/oci-runtime.md -differences docs/differences.md -man build/man \
//	     -completion build/completion -settings build/config.toml
package main

import (
	"bytes"
	_ "embed"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/template"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
	"github.com/spf13/pflag"

	"github.com/runcvm/runcvm/internal/cli"
	"github.com/runcvm/runcvm/internal/config"
)

//go:embed command.md.tmpl
var templateText string

func main() {
	markdown := flag.String("markdown", "", "write the documentation to this `file`")
	runtime := flag.String("runtime", "", "write what becomes of a bundle's fields to this `file`")
	differences := flag.String("differences", "", "write what differs from runc under Docker and Podman to this `file`")
	man := flag.String("man", "", "write man pages to this `directory`")
	completion := flag.String("completion", "", "write completions to this `directory`")
	settings := flag.String("settings", "", "write a configuration file with every setting to this `file`")
	flag.Parse()
	var errs []error
	if *markdown != "" {
		text, err := commandMarkdown(cli.Command())
		if err == nil {
			err = os.WriteFile(*markdown, text, 0o644)
		}
		errs = append(errs, err)
	}
	if *differences != "" {
		text, err := differencesMarkdown()
		if err == nil {
			err = os.WriteFile(*differences, text, 0o644)
		}
		errs = append(errs, err)
	}
	if *runtime != "" {
		text, err := runtimeMarkdown()
		if err == nil {
			err = os.WriteFile(*runtime, text, 0o644)
		}
		errs = append(errs, err)
	}
	if *man != "" {
		errs = append(errs, manPages(cli.Command(), *man))
	}
	if *completion != "" {
		errs = append(errs, completions(cli.Command(), *completion))
	}
	if *settings != "" {
		values, err := defaults()
		if err == nil {
			err = os.WriteFile(*settings, settingsFile(values), 0o644)
		}
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		fmt.Fprintln(os.Stderr, "docs:", err)
		os.Exit(1)
	}
}

// page is what the template is filled with.
type page struct {
	Verbs    []verb
	Global   []flagText
	Settings []config.Value
}

// verb is a command that does something of its own.
type verb struct {
	Path, Anchor string
	Use, Usage   string
	Short, Long  string
	Flags        []flagText
}

type flagText struct{ Flag, Usage string }

func parse(text string) (*template.Template, error) {
	return template.New("").Funcs(template.FuncMap{"cell": cell}).Parse(text)
}

// cell makes a text fit for a table's cell.
func cell(s string) string {
	return strings.NewReplacer("|", `\|`, "\n", " ", "<", "&lt;").Replace(s)
}

func commandMarkdown(root *cobra.Command) ([]byte, error) {
	t, err := parse(templateText)
	if err != nil {
		return nil, err
	}
	settings, err := defaults()
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	p := page{Verbs: verbs(root), Global: flagTexts(root.PersistentFlags()), Settings: settings}
	if err := t.ExecuteTemplate(&b, "command.md", p); err != nil {
		return nil, err
	}
	return append(bytes.TrimSpace(b.Bytes()), '\n'), nil
}

// defaults are the settings without file and environment.
func defaults() ([]config.Value, error) {
	c, err := config.Load(func(name string) (string, bool) { return os.DevNull, name == "RUNCVM_CONFIG" })
	if err != nil {
		return nil, err
	}
	return c.Values(), nil
}

// verbs lists the commands that can be run, in the order of their names.
func verbs(cmd *cobra.Command) []verb {
	var all []verb
	for _, c := range cmd.Commands() {
		if !c.IsAvailableCommand() {
			continue
		}
		if c.HasSubCommands() {
			all = append(all, verbs(c)...)
			continue
		}
		path := strings.TrimPrefix(c.CommandPath(), c.Root().Name()+" ")
		v := verb{
			Path: path, Anchor: strings.ReplaceAll(path, " ", "-"), Use: strings.TrimPrefix(c.UseLine(), c.Root().Name()+" "),
			Usage: c.UseLine(), Short: c.Short, Long: c.Long, Flags: flagTexts(c.NonInheritedFlags()),
		}
		v.Use, _, _ = strings.Cut(v.Use, "\n") // the first way to use it stands for all
		v.Use = strings.Replace(v.Use, " [flags]", "", 1)
		if v.Long == "" {
			v.Long = c.Short
		}
		// A text that is no sentence yet; an example at its end stays as it is.
		if last := v.Long[strings.LastIndexByte(v.Long, '\n')+1:]; !strings.HasPrefix(last, "    ") && !strings.HasSuffix(last, ".") {
			v.Long += "."
		}
		all = append(all, v)
	}
	return all
}

func flagTexts(set *pflag.FlagSet) []flagText {
	var all []flagText
	set.VisitAll(func(f *pflag.Flag) {
		if f.Hidden || f.Name == "help" {
			return
		}
		name, usage := pflag.UnquoteUsage(f)
		if one, ok := strings.CutSuffix(name, "Array"); ok {
			name, usage = one, usage+"; may be given more than once"
		}
		text := "`--" + f.Name
		if f.Shorthand != "" {
			text = "`-" + f.Shorthand + "`, " + text
		}
		if name != "" {
			text += " " + strings.ToUpper(name)
		}
		text += "`"
		if f.DefValue != "" && !slices.Contains([]string{"false", "0", "[]", "-1"}, f.DefValue) {
			usage += " (default: " + f.DefValue + ")"
		}
		all = append(all, flagText{text, usage})
	})
	return all
}

// manPages writes a page for each command, of the day of SOURCE_DATE_EPOCH or of today.
func manPages(root *cobra.Command, dir string) error {
	t, err := parse(templateText)
	if err != nil {
		return err
	}
	settings, err := defaults()
	if err != nil {
		return err
	}
	var text strings.Builder
	for _, section := range []string{"names", "exit codes", "settings", "files"} {
		if section != "names" {
			fmt.Fprintf(&text, "\n\n# %s\n\n", strings.ToUpper(section))
		}
		if err := t.ExecuteTemplate(&text, section, settings); err != nil {
			return err
		}
	}
	root.Long = root.Short + ". " + text.String()
	disableTag(root)
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return doc.GenManTree(root, &doc.GenManHeader{Section: "1", Source: "RunCVM", Manual: "RunCVM"}, dir)
}

// disableTag leaves out the line that says when a page was made and by what.
func disableTag(cmd *cobra.Command) {
	cmd.DisableAutoGenTag = true
	for _, c := range cmd.Commands() {
		disableTag(c)
	}
}

// completions writes a file for each shell, as it is named where the shell looks for it.
func completions(root *cobra.Command, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return errors.Join(
		root.GenBashCompletionFileV2(filepath.Join(dir, "runcvm"), true),
		root.GenZshCompletionFile(filepath.Join(dir, "_runcvm")),
		root.GenFishCompletionFile(filepath.Join(dir, "runcvm.fish"), true))
}

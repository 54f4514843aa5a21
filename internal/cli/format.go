package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"text/template"

	"github.com/spf13/cobra"
)

// listing prints rows of one kind as Docker's lists do: --format takes "table", "json", a Go template, or "table" with a
// template; -q prints what names a row, --no-trunc whole values, --filter chooses rows.
//
// A row is a struct whose fields and methods are the template's; its JSON is that of its exported fields.
type listing struct {
	// columns are the template of the table's columns: "{{.ID}}\t{{.Name}}".
	columns string
	// headings are the fields' headings in a table; a field without one is headed by its name in upper case.
	headings map[string]string
	// name is the template of what -q prints.
	name string

	format  string
	quiet   bool
	noTrunc bool
	filters []string
}

// addFormat gives the verb --format.
func (l *listing) addFormat(cmd *cobra.Command) {
	cmd.Flags().StringVar(&l.format, "format", "table",
		"table, json (an object a line), a Go template, or \"table TEMPLATE\" for one with a heading")
}

// addQuiet gives the verb -q.
func (l *listing) addQuiet(cmd *cobra.Command, what string) {
	cmd.Flags().BoolVarP(&l.quiet, "quiet", "q", false, what+" only")
}

// addNoTrunc gives the verb --no-trunc.
func (l *listing) addNoTrunc(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&l.noTrunc, "no-trunc", false, "do not shorten values")
}

// addFilter gives the verb --filter; known describes the filters.
func (l *listing) addFilter(cmd *cobra.Command, known string) {
	cmd.Flags().StringArrayVarP(&l.filters, "filter", "f", nil, "only those for which NAME=VALUE holds: "+known)
}

// printRows writes the rows as l says. Nothing is written where the template is wrong.
func printRows[T any](w io.Writer, l *listing, rows []T) error {
	text, table := l.template()
	t, err := parseTemplate(text)
	if err != nil {
		return err
	}
	var out bytes.Buffer
	var lines io.Writer = &out
	if table {
		tw := tabwriter.NewWriter(&out, 10, 1, 3, ' ', 0)
		heading, err := headingTemplate(text)
		if err == nil {
			err = heading.Execute(tw, l.headingRow(text))
		}
		if err != nil {
			return fmt.Errorf("--format: %w", err)
		}
		fmt.Fprintln(tw)
		lines = tw
	}
	for _, row := range rows {
		if err := t.Execute(lines, row); err != nil {
			return fmt.Errorf("--format: %w", err)
		}
		fmt.Fprintln(lines)
	}
	if tw, ok := lines.(*tabwriter.Writer); ok {
		if err := tw.Flush(); err != nil {
			return err
		}
	}
	_, err = w.Write(out.Bytes())
	return err
}

// template is the one by which rows are printed, and whether they get a heading.
func (l *listing) template() (text string, table bool) {
	format := strings.TrimSpace(l.format)
	rest, isTable := strings.CutPrefix(format, "table")
	switch {
	case l.quiet && (format == "" || format == "table"):
		return l.name, false
	case format == "" || format == "table":
		return l.columns, true
	case format == "json":
		return "{{json .}}", false
	case isTable && (rest[0] == ' ' || rest[0] == '\t' || rest[0] == '\\' || rest[0] == '{'):
		return strings.TrimSpace(unescape(rest)), true
	}
	return unescape(format), false
}

// unescape takes \t and \n as shells leave them in quotes, as Docker does.
func unescape(format string) string {
	return strings.NewReplacer(`\t`, "\t", `\n`, "\n").Replace(format)
}

// headingRow is what the heading is made of: every field that the template may name.
func (l *listing) headingRow(text string) map[string]any {
	row := map[string]any{}
	for part := range strings.FieldsFuncSeq(text, func(r rune) bool { return !isFieldRune(r) }) {
		if path, ok := strings.CutPrefix(part, "."); ok {
			setHeading(row, strings.Split(path, "."))
		}
	}
	for name, heading := range l.headings {
		if _, deep := row[name].(map[string]any); !deep {
			row[name] = heading
		}
	}
	return row
}

// setHeading puts the last name of a path, in upper case, where the template looks for it.
func setHeading(row map[string]any, path []string) {
	name := path[0]
	if len(path) == 1 {
		if row[name] == nil {
			row[name] = strings.ToUpper(name)
		}
		return
	}
	inner, ok := row[name].(map[string]any)
	if !ok {
		inner = map[string]any{}
		row[name] = inner
	}
	setHeading(inner, path[1:])
}

func isFieldRune(r rune) bool {
	return r == '.' || r == '_' || r >= '0' && r <= '9' || r >= 'A' && r <= 'Z' || r >= 'a' && r <= 'z'
}

// templateFuncs are Docker's functions in templates (docker/cli, templates).
var templateFuncs = template.FuncMap{
	"json":  toJSON,
	"split": strings.Split,
	"join":  strings.Join,
	"title": func(s string) string {
		if s == "" {
			return s
		}
		return strings.ToUpper(s[:1]) + s[1:]
	},
	"lower": strings.ToLower,
	"upper": strings.ToUpper,
	"pad": func(s string, before, after int) string {
		if s == "" {
			return s
		}
		return strings.Repeat(" ", max(before, 0)) + s + strings.Repeat(" ", max(after, 0))
	},
	"truncate": func(s string, most int) string {
		if r := []rune(s); most >= 0 && len(r) > most {
			return string(r[:most])
		}
		return s
	},
}

// parseTemplate reads a Go template with Docker's functions.
func parseTemplate(text string) (*template.Template, error) {
	t, err := template.New("").Funcs(templateFuncs).Parse(text)
	if err != nil {
		return nil, fmt.Errorf("--format %q is neither table, json nor a Go template: %w", text, err)
	}
	return t, nil
}

// headingTemplate is the same template for the heading, where functions leave their first argument as it is.
func headingTemplate(text string) (*template.Template, error) {
	funcs := template.FuncMap{}
	for name := range templateFuncs {
		funcs[name] = func(v any, _ ...any) any { return v }
	}
	return template.New("").Funcs(funcs).Parse(text)
}

func toJSON(v any) (string, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return "", err
	}
	return strings.TrimSuffix(b.String(), "\n"), nil
}

// printObjects writes what an inspecting verb found as Docker does: an indented array of JSON without a format, one in a line
// for "json", or each object by a Go template and a line's end. A name in the template that an object lacks is an error.
func printObjects[T any](w io.Writer, format string, objects []T) error {
	if objects == nil {
		objects = []T{}
	}
	switch format {
	case "":
		enc := json.NewEncoder(w)
		enc.SetEscapeHTML(false)
		enc.SetIndent("", "    ")
		return enc.Encode(objects)
	case "json":
		text, err := toJSON(objects)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintln(w, text)
		return err
	}
	t, err := parseTemplate(unescape(format))
	if err != nil {
		return err
	}
	var out bytes.Buffer
	for _, o := range objects {
		if err := t.Option("missingkey=error").Execute(&out, o); err != nil {
			return fmt.Errorf("--format: %w", err)
		}
		out.WriteByte('\n')
	}
	_, err = w.Write(out.Bytes())
	return err
}

package enginefile

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/BurntSushi/toml"
)

// Podman reads a file of its package's, one of the host's, and from version 3.3 on a directory of further ones.
var Podman = Engine{
	Name:   "podman",
	Reload: "Podman reads it at its next command; a podman system service that runs has to be restarted",
	Use:    "podman --runtime %s run IMAGE",
	files: func(root string) ([]string, error) {
		more, err := filepath.Glob(filepath.Join(root, podmanConf+".d/*.conf"))
		return append([]string{filepath.Join(root, "/usr/share/containers/containers.conf"), filepath.Join(root, podmanConf)}, more...), err
	},
	own:    podmanFile,
	format: containersConf{},
}

const (
	podmanConf   = "/etc/containers/containers.conf"
	podmanDropIn = podmanConf + ".d/runcvm.conf"
)

// podmanFile is a file of our own where Podman reads one: every version but those that are older and installed.
func podmanFile(root string) string {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, "podman", "--version").Output()
	var major, minor int
	if err == nil {
		_, err = fmt.Sscanf(string(out), "podman version %d.%d", &major, &minor)
	}
	if err == nil && (major < 3 || major == 3 && minor < 3) {
		return filepath.Join(root, podmanConf)
	}
	return filepath.Join(root, podmanDropIn)
}

// containersConf is containers.conf: TOML, in which runtimes are lists of paths, of which the first that is there counts.
type containersConf struct{}

const (
	tableRuntimes = "engine.runtimes"
	byHand        = "its form is not understood: change it by hand, in the table " + tableRuntimes
	// heading stands above a table that Install adds, and goes with it.
	heading = `# Written by "runcvm install podman"; "runcvm uninstall podman" takes it out.`
)

func (containersConf) read(text []byte) ([]Runtime, error) {
	t, err := decode(text)
	if err != nil {
		return nil, err
	}
	engine, _ := t["engine"].(map[string]any)
	runtimes, _ := engine["runtimes"].(map[string]any)
	standard, _ := engine["runtime"].(string)
	var all []Runtime
	for _, name := range slices.Sorted(maps.Keys(runtimes)) {
		r := Runtime{Name: name, Default: name == standard}
		if paths, ok := runtimes[name].([]any); ok && len(paths) > 0 {
			r.Path, _ = paths[0].(string)
			r.Plain = len(paths) == 1
		}
		all = append(all, r)
	}
	return all, nil
}

func decode(text []byte) (map[string]any, error) {
	t := map[string]any{}
	if _, err := toml.Decode(string(text), &t); err != nil {
		if e := new(toml.ParseError); errors.As(err, e) {
			return nil, fmt.Errorf("line %d: %s", e.Position.Line, e.Message)
		}
		return nil, err
	}
	return t, nil
}

// header is a line that begins a table.
var header = regexp.MustCompile(`^\[([^\[\]]+)\]\s*(#.*)?$`)

// lines are a file's, each with its end.
func lines(text []byte) []string { return strings.SplitAfter(string(text), "\n") }

// find looks for the table of runtimes and in it for one of them. It takes a line at a time for what it looks like: whether
// that was right is seen by verify.
func find(all []string, name string) (table, first, last int) {
	table, first, last = -1, -1, -1
	in := false
	for i, line := range all {
		if m := header.FindStringSubmatch(strings.TrimSpace(line)); m != nil {
			in = strings.ReplaceAll(strings.Join(strings.Fields(m[1]), ""), `"`, "") == tableRuntimes
			if in {
				table = i
			}
			continue
		}
		key, value, ok := strings.Cut(line, "=")
		if !in || first >= 0 || !ok || strings.Trim(strings.TrimSpace(key), `"'`) != name {
			continue
		}
		for first, last = i, i; !strings.Contains(value, "]") && last+1 < len(all); value = all[last] {
			last++
		}
	}
	return table, first, last
}

func (c containersConf) set(text []byte, name, path string) ([]byte, error) {
	have, err := c.read(text)
	if err != nil {
		return nil, err
	}
	all := lines(text)
	end := "\n"
	if bytes.Contains(text, []byte("\r\n")) {
		end = "\r\n"
	}
	entry := fmt.Sprintf("%s = [%q]%s", name, path, end)
	table, first, last := find(all, name)
	switch {
	case first >= 0:
		all = slices.Replace(all, first, last+1, entry)
	case table >= 0:
		if !strings.HasSuffix(all[table], "\n") {
			all[table] += end
		}
		all = slices.Insert(all, table+1, entry)
	case len(have) > 0:
		return nil, errors.New(byHand) // a table on one line, or of dotted keys, which no other may add to
	default:
		if n := len(all); all[n-1] != "" {
			all[n-1] += end
		}
		if len(bytes.TrimSpace(text)) > 0 {
			all = append(all, end)
		}
		all = append(all, heading+end, "["+tableRuntimes+"]"+end, entry)
	}
	after := []byte(strings.Join(all, ""))
	return after, verify(text, after, name, []any{path})
}

func (c containersConf) remove(text []byte, name string) ([]byte, error) {
	all := lines(text)
	table, first, last := find(all, name)
	if first < 0 {
		return nil, fmt.Errorf("the runtime %s is not where install writes it: take it out by hand", name)
	}
	all = slices.Delete(all, first, last+1)
	// The table goes too if it is ours and nothing is left in it.
	rest := strings.TrimSpace(strings.Join(all[table+1:], ""))
	if table > 0 && strings.TrimSpace(all[table-1]) == heading && (rest == "" || strings.HasPrefix(rest, "[")) {
		from := table - 1
		if from > 0 && strings.TrimSpace(all[from-1]) == "" {
			from--
		}
		all = slices.Delete(all, from, table+1)
	}
	after := []byte(strings.Join(all, ""))
	if err := verify(text, after, name, nil); err != nil {
		return nil, err
	}
	if len(bytes.TrimSpace(after)) == 0 {
		return nil, nil
	}
	return after, nil
}

// verify says whether a file has become what it was with this one runtime changed; nil is what one becomes that is taken out.
func verify(before, after []byte, name string, want any) error {
	b, err := decode(before)
	if err != nil {
		return err
	}
	a, err := decode(after)
	if err != nil {
		return fmt.Errorf("%s (%w)", byHand, err)
	}
	take(b, name)
	if !reflect.DeepEqual(take(a, name), want) || !reflect.DeepEqual(a, b) {
		return errors.New(byHand)
	}
	return nil
}

// take takes a runtime out of what was decoded, with the tables that are empty without it.
func take(t map[string]any, name string) any {
	engine, _ := t["engine"].(map[string]any)
	runtimes, _ := engine["runtimes"].(map[string]any)
	v := runtimes[name]
	delete(runtimes, name)
	if len(runtimes) == 0 {
		delete(engine, "runtimes")
	}
	if len(engine) == 0 {
		delete(t, "engine")
	}
	return v
}

func (containersConf) empty() []byte { return []byte{} }

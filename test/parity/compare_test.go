//go:build e2e

package parity

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/runcvm/runcvm/test/control"
)

// difference is one thing in which a container of RunCVM differs from runc's. In its patterns * stands for anything.
type difference struct {
	// Path names a value of the probe's report, as in "mounts › /proc › source".
	Path string `json:"path"`
	// Runc and RunCVM are the two values; "(none)" where one side has nothing there.
	Runc   string `json:"runc"`
	RunCVM string `json:"runcvm"`
	// Cases are those that differ; all where it is empty.
	Cases string `json:"cases,omitempty"`
	// Without and With name a file of this machine: the entry counts only where the one is missing, or the other is there.
	Without string `json:"without,omitempty"`
	With    string `json:"with,omitempty"`
	// Chance says that the two may also come out equal.
	Chance bool   `json:"chance,omitempty"`
	Reason string `json:"reason"`

	used atomic.Bool
}

type differences []*difference

//go:embed testdata/differences.json
var differencesFile []byte

func readDifferences(t *testing.T) differences {
	t.Helper()
	var all, here differences
	if err := json.Unmarshal(differencesFile, &all); err != nil {
		t.Fatalf("testdata/differences.json: %v", err)
	}
	for _, d := range all {
		if d.Reason == "" {
			t.Errorf("testdata/differences.json: %s has no reason", d.Path)
		}
		if (d.Without == "" || !exists(d.Without)) && (d.With == "" || exists(d.With)) {
			here = append(here, d)
		}
	}
	return here
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

const separator = " › "

// flatten writes the values of a tree by their paths.
func flatten(into map[string]string, path string, tree any) {
	join := func(name string) string { return strings.TrimPrefix(path+separator+name, separator) }
	switch v := tree.(type) {
	case map[string]any:
		for name, sub := range v {
			flatten(into, join(name), sub)
		}
	case []any:
		for i, sub := range v {
			flatten(into, join(strconv.Itoa(i)), sub)
		}
	case nil:
	default:
		into[path] = fmt.Sprint(v)
	}
}

const none = "(none)"

// compare reports each difference that is not in the list.
func (l differences) compare(t *testing.T, c *control.Control, name string, runcs, ours map[string]string) {
	t.Helper()
	paths := slices.Sorted(maps.Keys(runcs))
	for path := range ours {
		if _, ok := runcs[path]; !ok {
			paths = append(paths, path)
		}
	}
	slices.Sort(paths)
	get := func(m map[string]string, path string) string {
		v, ok := m[path]
		if !ok {
			return none
		}
		return possible(t, c, path, v)
	}
	for _, path := range paths {
		a, b := get(runcs, path), get(ours, path)
		if a == b {
			continue
		}
		i := slices.IndexFunc(l, func(d *difference) bool { return d.explains(name, path, a, b) })
		if i < 0 {
			t.Errorf("%s\n\trunc   %s\n\truncvm %s", path, a, b)
			continue
		}
		l[i].used.Store(true)
	}
}

func (d *difference) explains(name, path, runcs, ours string) bool {
	return matches(d.Path, path) && matches(d.Runc, runcs) && matches(d.RunCVM, ours) && (d.Cases == "" || matches(d.Cases, name))
}

// matches says whether a text is one that the pattern describes; alternatives are separated by |.
func matches(pattern, text string) bool {
	for p := range strings.SplitSeq(pattern, "|") {
		p = "^" + strings.ReplaceAll(regexp.QuoteMeta(p), `\*`, `.*`) + "$"
		if regexp.MustCompile(p).MatchString(text) {
			return true
		}
	}
	return false
}

func (l differences) reportUnused(t *testing.T) {
	t.Helper()
	for _, d := range l {
		if !d.used.Load() && !d.Chance {
			t.Errorf("testdata/differences.json: nothing differs in %s (runc %s, runcvm %s): take the entry out", d.Path, d.Runc, d.RunCVM)
		}
	}
}

// possible is a value within what runc can give on this machine, whose own rights may be few: capabilities and hard limits that the
// machine lacks are taken from both sides.
func possible(t *testing.T, c *control.Control, path, value string) string {
	t.Helper()
	switch {
	case strings.HasPrefix(path, "status"+separator+"Cap"):
		if n, err := strconv.ParseUint(value, 16, 64); err == nil {
			return fmt.Sprintf("%016x", n&c.Capabilities)
		}
	case strings.HasPrefix(path, "limits"+separator) && c.Capabilities>>unix.CAP_SYS_RESOURCE&1 == 0:
		most := control.HardLimit(t, strings.TrimPrefix(path, "limits"+separator))
		soft, hard, _ := strings.Cut(value, ":")
		return within(soft, most) + ":" + within(hard, most)
	}
	return value
}

func within(value string, most uint64) string {
	n, err := strconv.ParseUint(value, 10, 64)
	if value == "unlimited" {
		n, err = unix.RLIM_INFINITY, nil
	}
	if err != nil || most == unix.RLIM_INFINITY && n == most {
		return value
	}
	return fmt.Sprint(min(n, most))
}

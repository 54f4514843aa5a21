//go:build e2e

package engines

import (
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/runcvm/runcvm/test/engines/differences"
	"github.com/runcvm/runcvm/test/engines/engine"
)

// difference is a row of the table, and whether it was met.
type difference struct {
	differences.Difference
	used, ran bool
}

// table is the table of differences.
type table struct {
	mu  *sync.Mutex
	all []*difference
}

func readDifferences(t *testing.T) table {
	t.Helper()
	rows, err := differences.Read()
	if err != nil {
		t.Fatal(err)
	}
	l := table{mu: new(sync.Mutex)}
	for _, row := range rows {
		l.all = append(l.all, &difference{Difference: row})
	}
	return l
}

func (d *difference) on(kind engine.Kind) bool {
	return d.Engines == "" || matches(d.Engines, string(kind))
}

// ran notes that a case was run.
func (l table) ran(name string, kind engine.Kind, runtime string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, d := range l.all {
		d.ran = d.ran || runtime == engine.RunCVM && d.Case == name && d.on(kind)
	}
}

// explains says whether a row of the table tells of what was found, and notes that it was.
func (l table) explains(name, step string, kind engine.Kind, runtime string, f finding) bool {
	if runtime != engine.RunCVM {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, d := range l.all {
		if d.Case == name && d.Step == step && d.What == f.what && d.on(kind) && matches(d.RunCVM, f.got) {
			d.used = true
			return true
		}
	}
	return false
}

// explained says whether the table tells of everything that was found.
func (l table) explained(name, step string, kind engine.Kind, runtime string, found []finding) bool {
	for _, f := range found {
		if !l.explains(name, step, kind, runtime, f) {
			return false
		}
	}
	return true
}

func (l table) reportUnused(t *testing.T) {
	t.Helper()
	for _, d := range l.all {
		if d.ran && !d.used {
			t.Errorf("differences.json: nothing differs in the %s of %s, %s: take the row out", d.What, d.Case, d.Step)
		}
	}
}

// matches says whether a text is one that the pattern describes: * stands for anything, | separates alternatives.
func matches(pattern, text string) bool {
	for p := range strings.SplitSeq(pattern, "|") {
		if regexp.MustCompile("(?s)^" + strings.ReplaceAll(regexp.QuoteMeta(p), `\*`, `.*`) + "$").MatchString(text) {
			return true
		}
	}
	return false
}

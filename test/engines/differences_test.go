//go:build e2e

package engines

import (
	_ "embed"
	"encoding/json"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/runcvm/runcvm/test/engines/engine"
)

// difference is one thing that is not under RunCVM as it is under runc.
type difference struct {
	// Case and Step tell where, What which of "exit code", "stdout" and "stderr".
	Case string `json:"case"`
	Step string `json:"step"`
	What string `json:"what"`
	// Engines are those where it shows, separated by |; all where it is empty.
	Engines string `json:"engines,omitempty"`
	// RunCVM is what is there in place of what the step wants; * stands for anything.
	RunCVM string `json:"runcvm"`
	Reason string `json:"reason"`

	used, ran bool
}

// differences is the table, and which of its rows were met.
type differences struct {
	mu  *sync.Mutex
	all []*difference
}

//go:embed testdata/differences.json
var differencesFile []byte

func readDifferences(t *testing.T) differences {
	t.Helper()
	l := differences{mu: new(sync.Mutex)}
	if err := json.Unmarshal(differencesFile, &l.all); err != nil {
		t.Fatalf("testdata/differences.json: %v", err)
	}
	for _, d := range l.all {
		if d.Reason == "" {
			t.Errorf("testdata/differences.json: %s, %s has no reason", d.Case, d.Step)
		}
	}
	return l
}

func (d *difference) on(kind engine.Kind) bool {
	return d.Engines == "" || matches(d.Engines, string(kind))
}

// ran notes that a case was run.
func (l differences) ran(name string, kind engine.Kind, runtime string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, d := range l.all {
		d.ran = d.ran || runtime == engine.RunCVM && d.Case == name && d.on(kind)
	}
}

// explains says whether a row of the table tells of what was found, and notes that it was.
func (l differences) explains(name, step string, kind engine.Kind, runtime string, f finding) bool {
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
func (l differences) explained(name, step string, kind engine.Kind, runtime string, found []finding) bool {
	for _, f := range found {
		if !l.explains(name, step, kind, runtime, f) {
			return false
		}
	}
	return true
}

func (l differences) reportUnused(t *testing.T) {
	t.Helper()
	for _, d := range l.all {
		if d.ran && !d.used {
			t.Errorf("testdata/differences.json: nothing differs in the %s of %s, %s: take the row out", d.What, d.Case, d.Step)
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

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
func (l differences) compare(t *testing.T, c *control, name string, runcs, ours map[string]string) {
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
		return c.possible(t, path, v)
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
func (c *control) possible(t *testing.T, path, value string) string {
	t.Helper()
	switch {
	case strings.HasPrefix(path, "status"+separator+"Cap"):
		if n, err := strconv.ParseUint(value, 16, 64); err == nil {
			return fmt.Sprintf("%016x", n&c.capabilities)
		}
	case strings.HasPrefix(path, "limits"+separator) && c.capabilities>>unix.CAP_SYS_RESOURCE&1 == 0:
		most := hardLimit(t, strings.TrimPrefix(path, "limits"+separator))
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

// limitNumbers are the limits by their numbers (getrlimit(2)).
var limitNumbers = map[string]int{"cpu": 0, "fsize": 1, "data": 2, "stack": 3, "core": 4, "rss": 5, "nproc": 6, "nofile": 7, "memlock": 8,
	"as": 9, "locks": 10, "sigpending": 11, "msgqueue": 12, "nice": 13, "rtprio": 14, "rttime": 15}

func hardLimit(t *testing.T, name string) uint64 {
	t.Helper()
	number, ok := limitNumbers[name]
	if !ok {
		t.Fatalf("%s is no limit", name)
	}
	var l unix.Rlimit
	if err := unix.Prlimit(0, number, nil, &l); err != nil {
		t.Fatal(err)
	}
	return l.Max
}

var capabilityNames = strings.Fields(`CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE
	NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN
	SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG
	WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE`)

func capabilityNumber(t *testing.T, name string) int {
	t.Helper()
	n := slices.Index(capabilityNames, strings.TrimPrefix(name, "CAP_"))
	if n < 0 {
		t.Fatalf("%s is no capability", name)
	}
	return n
}

func allCapabilities() []string {
	var all []string
	for _, name := range capabilityNames {
		all = append(all, "CAP_"+name)
	}
	return all
}

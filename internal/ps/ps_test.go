package ps

import (
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/runcvm/runcvm/internal/monitor/api"
)

func TestOptionsOfPSChooseColumns(t *testing.T) {
	for options, want := range map[string]string{
		"":                         "UID PID PPID C STIME TTY TIME CMD",
		"-ef":                      "UID PID PPID C STIME TTY TIME CMD",
		"-e":                       "PID TTY TIME CMD",
		"aux":                      "USER PID %CPU %MEM VSZ RSS TTY STAT START TIME COMMAND",
		"-aux":                     "USER PID %CPU %MEM VSZ RSS TTY STAT START TIME COMMAND",
		"-eo pid,comm":             "PID COMMAND",
		"-o pid -o %cpu,user=WHO":  "PID %CPU WHO",
		"-opid,ppid":               "PID PPID",
		"--format pid,args":        "PID COMMAND",
		"--format=vsize,rsz,etime": "VSZ RSS ELAPSED",
	} {
		list, err := Columns(strings.Fields(options))
		var got []string
		for _, c := range list {
			got = append(got, c.heading)
		}
		if err != nil || strings.Join(got, " ") != want {
			t.Errorf("%q: %q, %v, want %q", options, got, err, want)
		}
	}
	for _, options := range []string{"-u root", "--sort=pid", "-o colour", "-o", "-p 1", "fax", "-H"} {
		if _, err := Columns(strings.Fields(options)); err == nil {
			t.Errorf("%q was taken", options)
		}
	}
}

func TestColumnsAreWrittenAsPSDoes(t *testing.T) {
	now := time.Date(2026, 5, 4, 12, 0, 0, 0, time.Local)
	p := &api.ProcessInfo{
		Pid: 7, Uid: 99, CpuNanos: uint64(90 * time.Minute), StartedUnixNanos: now.Add(-48 * time.Hour).UnixNano(), Sid: 7, Threads: 2,
		State: "S", ResidentMemory: 10 << 10, Name: "kthread",
	}
	v := view{now: now, memory: 100 << 10}
	for column, want := range map[string]string{
		"user": "99", "stime": "May02", "time": "01:30:00", "etime": "2-00:00:00", "c": "3", "pcpu": "3.1", "pmem": "10.0", "rss": "10",
		"tty": "?", "stat": "Ssl", "cmd": "[kthread]", "etimes": "172800",
	} {
		if got := columns[column].value(v, p); got != want {
			t.Errorf("%s is %q, want %q", column, got, want)
		}
	}
	for d, want := range map[time.Duration]string{time.Second: "00:01", time.Hour: "01:00:00", 25 * time.Hour: "1-01:00:00"} {
		if got := clock(d, false); got != want {
			t.Errorf("%s is %q, want %q", d, got, want)
		}
	}
}

func TestProcessesThatAreNotListedAreCounted(t *testing.T) {
	columns, err := Columns([]string{"-o", "pid"})
	if err != nil {
		t.Fatal(err)
	}
	for total, want := range map[int]string{2: "", 5: "runcvm: and 3 more processes\n"} {
		var table, notes strings.Builder
		l := List{Processes: []*api.ProcessInfo{{Pid: 1}, {Pid: 2}}, Total: total}
		if err := l.Write(tabwriter.NewWriter(&table, 0, 1, 1, ' ', 0), &notes, columns); err != nil {
			t.Fatal(err)
		}
		if table.String() != "PID\n1\n2\n" || notes.String() != want {
			t.Errorf("of %d: %q, %q, want %q", total, table.String(), notes.String(), want)
		}
	}
}

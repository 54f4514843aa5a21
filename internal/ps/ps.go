// Package ps lists the processes of a container's guest as ps(1) does. Ask first, then Write what was answered.
package ps

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	units "github.com/docker/go-units"

	"github.com/runcvm/runcvm/internal/monitor"
	"github.com/runcvm/runcvm/internal/monitor/api"
)

// List are the processes of a guest.
type List struct {
	Processes []*api.ProcessInfo
	// Total is how many there are: more than Processes where a guest has more than its agent tells of.
	Total int
	// Memory is the container's limit, in bytes.
	Memory uint64
}

// Ask asks a monitor for the processes of its guest.
func Ask(ctx context.Context, c *monitor.Client) (List, error) {
	usage, err := c.Control.Stats(ctx, &api.StatsRequest{})
	if err != nil {
		return List{}, err
	}
	top, err := c.Control.Top(ctx, &api.TopRequest{})
	return List{top.GetProcesses(), int(top.GetTotal()), usage.GetGuest().GetMemoryLimit()}, err
}

// Write writes a table of processes and flushes it, and to notes how many there are beside those that are known.
func (l List) Write(w *tabwriter.Writer, notes io.Writer, list []Column) error {
	row := make([]string, len(list))
	for i, c := range list {
		row[i] = c.heading
	}
	fmt.Fprintln(w, strings.Join(row, "\t"))
	v := view{now: time.Now(), memory: l.Memory}
	for _, p := range l.Processes {
		for i, c := range list {
			row[i] = c.value(v, p)
		}
		fmt.Fprintln(w, strings.Join(row, "\t"))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if n := l.Total - len(l.Processes); n > 0 {
		fmt.Fprintf(notes, "runcvm: and %d more processes\n", n)
	}
	return nil
}

// view is what columns need beside the process.
type view struct {
	now    time.Time
	memory uint64
}

// Column is a column of ps(1).
type Column struct {
	heading string
	value   func(view, *api.ProcessInfo) string
}

func (v view) age(p *api.ProcessInfo) time.Duration {
	return max(v.now.Sub(time.Unix(0, p.GetStartedUnixNanos())), 0)
}

// share is the part of its life in which a process used a processor, in percent.
func (v view) share(p *api.ProcessInfo) float64 {
	age := v.age(p)
	if age <= 0 {
		return 0
	}
	return float64(p.GetCpuNanos()) / float64(age) * 100
}

func number[T int32 | uint32 | uint64](get func(*api.ProcessInfo) T) func(view, *api.ProcessInfo) string {
	return func(_ view, p *api.ProcessInfo) string { return fmt.Sprint(get(p)) }
}

func userName(_ view, p *api.ProcessInfo) string { return cmp.Or(p.GetUser(), fmt.Sprint(p.GetUid())) }

func command(_ view, p *api.ProcessInfo) string {
	if len(p.GetArgs()) == 0 {
		name := "[" + p.GetName() + "]"
		if p.GetState() == "Z" {
			name += " <defunct>"
		}
		return name
	}
	return strings.Join(p.GetArgs(), " ")
}

// startTime is ps's: the time of a process of today, the day of others.
func startTime(v view, p *api.ProcessInfo) string {
	t := time.Unix(0, p.GetStartedUnixNanos())
	switch {
	case v.now.Sub(t) < 24*time.Hour:
		return t.Format("15:04")
	case t.Year() == v.now.Year():
		return t.Format("Jan02")
	}
	return t.Format("2006")
}

// clock writes a time as ps does: [[DD-]HH:]MM:SS, the hours always where long.
func clock(d time.Duration, long bool) string {
	s := int(d / time.Second)
	days, hours, minutes, seconds := s/86400, s/3600%24, s/60%60, s%60
	switch {
	case days > 0:
		return fmt.Sprintf("%d-%02d:%02d:%02d", days, hours, minutes, seconds)
	case hours > 0 || long:
		return fmt.Sprintf("%02d:%02d:%02d", hours, minutes, seconds)
	}
	return fmt.Sprintf("%02d:%02d", minutes, seconds)
}

func cpuTime(_ view, p *api.ProcessInfo) string { return clock(time.Duration(p.GetCpuNanos()), true) }

func kibibytes(get func(*api.ProcessInfo) uint64) func(view, *api.ProcessInfo) string {
	return func(_ view, p *api.ProcessInfo) string { return fmt.Sprint(get(p) / units.KiB) }
}

func tty(_ view, p *api.ProcessInfo) string { return cmp.Or(p.GetTty(), "?") }

// processState is ps's STAT: the state, with s for a session's leader, l for threads, < and N for a changed priority.
func processState(_ view, p *api.ProcessInfo) string {
	s := p.GetState()
	if p.GetNice() < 0 {
		s += "<"
	} else if p.GetNice() > 0 {
		s += "N"
	}
	if p.GetSid() == p.GetPid() {
		s += "s"
	}
	if p.GetThreads() > 1 {
		s += "l"
	}
	return s
}

// columns are the columns by their names in ps -o, with what ps heads them by.
var columns = map[string]Column{
	"pid":   {"PID", number((*api.ProcessInfo).GetPid)},
	"ppid":  {"PPID", number((*api.ProcessInfo).GetPpid)},
	"pgid":  {"PGID", number((*api.ProcessInfo).GetPgid)},
	"pgrp":  {"PGRP", number((*api.ProcessInfo).GetPgid)},
	"sid":   {"SID", number((*api.ProcessInfo).GetSid)},
	"sess":  {"SESS", number((*api.ProcessInfo).GetSid)},
	"uid":   {"UID", number((*api.ProcessInfo).GetUid)},
	"gid":   {"GID", number((*api.ProcessInfo).GetGid)},
	"user":  {"USER", userName},
	"uname": {"USER", userName},
	"group": {"GROUP", func(_ view, p *api.ProcessInfo) string { return cmp.Or(p.GetGroup(), fmt.Sprint(p.GetGid())) }},
	"c":     {"C", func(v view, p *api.ProcessInfo) string { return strconv.Itoa(min(int(v.share(p)), 99)) }},
	"pcpu":  {"%CPU", func(v view, p *api.ProcessInfo) string { return fmt.Sprintf("%.1f", v.share(p)) }},
	"pmem":  {"%MEM", memoryShare},
	"vsz":   {"VSZ", kibibytes((*api.ProcessInfo).GetVirtualMemory)},
	"rss":   {"RSS", kibibytes((*api.ProcessInfo).GetResidentMemory)},
	"tty":   {"TT", tty},
	"stat":  {"STAT", processState},
	"s":     {"S", func(_ view, p *api.ProcessInfo) string { return p.GetState() }},
	"stime": {"STIME", startTime},
	"start": {"STARTED", func(_ view, p *api.ProcessInfo) string {
		return time.Unix(0, p.GetStartedUnixNanos()).Format("15:04:05")
	}},
	"lstart": {"STARTED", func(_ view, p *api.ProcessInfo) string {
		return time.Unix(0, p.GetStartedUnixNanos()).Format(time.ANSIC)
	}},
	"etime":   {"ELAPSED", func(v view, p *api.ProcessInfo) string { return clock(v.age(p), false) }},
	"etimes":  {"ELAPSED", func(v view, p *api.ProcessInfo) string { return strconv.Itoa(int(v.age(p).Seconds())) }},
	"time":    {"TIME", cpuTime},
	"cputime": {"TIME", cpuTime},
	"cputimes": {"TIME", func(_ view, p *api.ProcessInfo) string {
		return strconv.Itoa(int(p.GetCpuNanos() / uint64(time.Second)))
	}},
	"ni":      {"NI", number((*api.ProcessInfo).GetNice)},
	"nlwp":    {"NLWP", number((*api.ProcessInfo).GetThreads)},
	"comm":    {"COMMAND", func(_ view, p *api.ProcessInfo) string { return p.GetName() }},
	"args":    {"COMMAND", command},
	"cmd":     {"CMD", command},
	"command": {"COMMAND", command},
}

// aliases are further names of columns.
var aliases = map[string]string{
	"%cpu": "pcpu", "%mem": "pmem", "vsize": "vsz", "rssize": "rss", "rsz": "rss", "tt": "tty", "tname": "tty", "state": "s",
	"start_time": "stime", "nice": "ni", "thcount": "nlwp", "ucomm": "comm", "session": "sess", "euid": "uid", "egid": "gid",
	"euser": "user", "egroup": "group",
}

func memoryShare(v view, p *api.ProcessInfo) string {
	if v.memory == 0 {
		return "0.0"
	}
	return fmt.Sprintf("%.1f", float64(p.GetResidentMemory())/float64(v.memory)*100)
}

// Names are the names of columns for ps -o.
func Names() []string {
	var names []string
	for name := range columns {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

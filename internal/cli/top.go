package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	units "github.com/docker/go-units"
	"github.com/spf13/cobra"

	"github.com/runcvm/runcvm/internal/container"
	"github.com/runcvm/runcvm/internal/monitor"
	"github.com/runcvm/runcvm/internal/monitor/api"
)

func (a *app) topCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "top CONTAINER [ps OPTIONS]",
		Short: "List a container's processes",
		Long: "List a container's processes in the columns of ps: -ef unless other options are given, aux, or -o with a list\n" +
			"of columns:\n" +
			strings.Join(columnNames(), " ") + ".\nThe pids are those that the container itself sees, the users' names are its own.",
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			columns, err := psColumns(args[1:])
			if err != nil {
				return err
			}
			return a.top(cmd.Context(), args[0], columns)
		},
	}
	cmd.Flags().SetInterspersed(false) // what follows the container are ps's
	return cmd
}

func (a *app) top(ctx context.Context, ref string, columns []psColumn) error {
	e, err := a.settled(ctx, ref)
	if err != nil {
		return err
	}
	if !e.Alive {
		return fmt.Errorf("container %s is not running", e.ID)
	}
	if e.State == container.Restarting {
		return fmt.Errorf("container %s is restarting, wait until the container is running", e.ID)
	}
	var list *api.TopResponse
	var usage *api.StatsResponse
	err = a.notEnded(e, a.ask(ctx, e, func(ctx context.Context, c *monitor.Client) (err error) {
		if usage, err = c.Control.Stats(ctx, &api.StatsRequest{}); err != nil {
			return err
		}
		list, err = c.Control.Top(ctx, &api.TopRequest{})
		return err
	}))
	if err != nil {
		return err
	}
	w := tabwriter.NewWriter(a.stdout, 20, 1, 3, ' ', 0)
	row := make([]string, len(columns))
	for i, c := range columns {
		row[i] = c.heading
	}
	fmt.Fprintln(w, strings.Join(row, "\t"))
	v := psView{now: time.Now(), memory: usage.GetGuest().GetMemoryLimit()}
	for _, p := range list.GetProcesses() {
		for i, c := range columns {
			row[i] = c.value(v, p)
		}
		fmt.Fprintln(w, strings.Join(row, "\t"))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if n := int(list.GetTotal()) - len(list.GetProcesses()); n > 0 {
		fmt.Fprintf(a.stderr, "runcvm: and %d more processes\n", n)
	}
	return nil
}

// psView is what columns need beside the process.
type psView struct {
	now    time.Time
	memory uint64
}

// psColumn is a column of ps(1).
type psColumn struct {
	heading string
	value   func(psView, *api.ProcessInfo) string
}

func (v psView) age(p *api.ProcessInfo) time.Duration {
	return max(v.now.Sub(time.Unix(0, p.GetStartedUnixNanos())), 0)
}

// share is the part of its life in which a process used a processor, in percent.
func (v psView) share(p *api.ProcessInfo) float64 {
	age := v.age(p)
	if age <= 0 {
		return 0
	}
	return float64(p.GetCpuNanos()) / float64(age) * 100
}

func number[T int32 | uint32 | uint64](get func(*api.ProcessInfo) T) func(psView, *api.ProcessInfo) string {
	return func(_ psView, p *api.ProcessInfo) string { return fmt.Sprint(get(p)) }
}

func userName(_ psView, p *api.ProcessInfo) string { return or(p.GetUser(), fmt.Sprint(p.GetUid())) }

func command(_ psView, p *api.ProcessInfo) string {
	if len(p.GetArgs()) == 0 {
		name := "[" + p.GetName() + "]"
		if p.GetState() == "Z" {
			name += " <defunct>"
		}
		return name
	}
	return strings.Join(p.GetArgs(), " ")
}

func or(values ...string) string {
	for _, v := range values {
		if v != "" {
			return v
		}
	}
	return ""
}

// startTime is ps's: the time of a process of today, the day of others.
func startTime(v psView, p *api.ProcessInfo) string {
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

func cpuTime(_ psView, p *api.ProcessInfo) string { return clock(time.Duration(p.GetCpuNanos()), true) }

func kibibytes(get func(*api.ProcessInfo) uint64) func(psView, *api.ProcessInfo) string {
	return func(_ psView, p *api.ProcessInfo) string { return fmt.Sprint(get(p) / units.KiB) }
}

func tty(_ psView, p *api.ProcessInfo) string { return or(p.GetTty(), "?") }

// processState is ps's STAT: the state, with s for a session's leader, l for threads, < and N for a changed priority.
func processState(_ psView, p *api.ProcessInfo) string {
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

// psNames are the columns by their names in ps -o, with what ps heads them by.
var psNames = map[string]psColumn{
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
	"group": {"GROUP", func(_ psView, p *api.ProcessInfo) string { return or(p.GetGroup(), fmt.Sprint(p.GetGid())) }},
	"c":     {"C", func(v psView, p *api.ProcessInfo) string { return strconv.Itoa(min(int(v.share(p)), 99)) }},
	"pcpu":  {"%CPU", func(v psView, p *api.ProcessInfo) string { return fmt.Sprintf("%.1f", v.share(p)) }},
	"pmem":  {"%MEM", memoryShare},
	"vsz":   {"VSZ", kibibytes((*api.ProcessInfo).GetVirtualMemory)},
	"rss":   {"RSS", kibibytes((*api.ProcessInfo).GetResidentMemory)},
	"tty":   {"TT", tty},
	"stat":  {"STAT", processState},
	"s":     {"S", func(_ psView, p *api.ProcessInfo) string { return p.GetState() }},
	"stime": {"STIME", startTime},
	"start": {"STARTED", func(_ psView, p *api.ProcessInfo) string {
		return time.Unix(0, p.GetStartedUnixNanos()).Format("15:04:05")
	}},
	"lstart": {"STARTED", func(_ psView, p *api.ProcessInfo) string {
		return time.Unix(0, p.GetStartedUnixNanos()).Format(time.ANSIC)
	}},
	"etime":   {"ELAPSED", func(v psView, p *api.ProcessInfo) string { return clock(v.age(p), false) }},
	"etimes":  {"ELAPSED", func(v psView, p *api.ProcessInfo) string { return strconv.Itoa(int(v.age(p).Seconds())) }},
	"time":    {"TIME", cpuTime},
	"cputime": {"TIME", cpuTime},
	"cputimes": {"TIME", func(_ psView, p *api.ProcessInfo) string {
		return strconv.Itoa(int(p.GetCpuNanos() / uint64(time.Second)))
	}},
	"ni":      {"NI", number((*api.ProcessInfo).GetNice)},
	"nlwp":    {"NLWP", number((*api.ProcessInfo).GetThreads)},
	"comm":    {"COMMAND", func(_ psView, p *api.ProcessInfo) string { return p.GetName() }},
	"args":    {"COMMAND", command},
	"cmd":     {"CMD", command},
	"command": {"COMMAND", command},
}

// psAliases are further names of columns.
var psAliases = map[string]string{
	"%cpu": "pcpu", "%mem": "pmem", "vsize": "vsz", "rssize": "rss", "rsz": "rss", "tt": "tty", "tname": "tty", "state": "s",
	"start_time": "stime", "nice": "ni", "thcount": "nlwp", "ucomm": "comm", "session": "sess", "euid": "uid", "egid": "gid",
	"euser": "user", "egroup": "group",
}

func memoryShare(v psView, p *api.ProcessInfo) string {
	if v.memory == 0 {
		return "0.0"
	}
	return fmt.Sprintf("%.1f", float64(p.GetResidentMemory())/float64(v.memory)*100)
}

func columnNames() []string {
	var names []string
	for name := range psNames {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// The columns of ps -ef and ps aux.
const (
	fullColumns = "user=UID,pid,ppid,c,stime,tty=TTY,time,cmd"
	userColumns = "user,pid,pcpu,pmem,vsz,rss,tty=TTY,stat,stime=START,time,command"
	fewColumns  = "pid,tty=TTY,time,cmd"
)

// psColumns reads options of ps(1), as far as they choose columns; those that choose processes mean all here.
func psColumns(args []string) ([]psColumn, error) {
	list, chosen := fewColumns, ""
	if len(args) == 0 {
		list = fullColumns
	}
	for len(args) > 0 {
		arg := args[0]
		args = args[1:]
		if !strings.HasPrefix(arg, "--") {
			for i, c := range strings.TrimPrefix(arg, "-") {
				switch {
				case strings.ContainsRune("eAaxwd", c): // all processes, in full width
				case c == 'f' && strings.HasPrefix(arg, "-"):
					list = fullColumns
				case c == 'u' && (!strings.HasPrefix(arg, "-") || arg == "-aux"):
					list = userColumns
				case c == 'o':
					rest := strings.TrimPrefix(arg, "-")[i+1:]
					if rest == "" && len(args) > 0 {
						rest, args = args[0], args[1:]
					}
					if rest == "" {
						return nil, errors.New("ps option -o names no column")
					}
					chosen = strings.TrimPrefix(chosen+","+rest, ",")
				default:
					return nil, fmt.Errorf("ps option %q: -%c is not supported; -ef, aux and -o LIST are", arg, c)
				}
				if c == 'o' {
					break
				}
			}
			continue
		}
		name, value, ok := strings.Cut(arg, "=")
		if name != "--format" {
			return nil, fmt.Errorf("ps option %q is not supported; -ef, aux and -o LIST are", arg)
		}
		if !ok && len(args) > 0 {
			value, args = args[0], args[1:]
		}
		chosen = strings.TrimPrefix(chosen+","+value, ",")
	}
	return parseColumns(or(chosen, list))
}

// parseColumns reads a list of columns NAME[=HEADING].
func parseColumns(list string) ([]psColumn, error) {
	var columns []psColumn
	for _, item := range strings.FieldsFunc(list, func(r rune) bool { return r == ',' || r == ' ' }) {
		name, heading, renamed := strings.Cut(item, "=")
		c, ok := psNames[or(psAliases[strings.ToLower(name)], strings.ToLower(name))]
		if !ok {
			return nil, fmt.Errorf("ps option -o: there is no column %q; these are: %s", name, strings.Join(columnNames(), " "))
		}
		if renamed {
			c.heading = heading
		}
		columns = append(columns, c)
	}
	if len(columns) == 0 {
		return nil, fmt.Errorf("ps option -o names no column; these are: %s", strings.Join(columnNames(), " "))
	}
	return columns, nil
}

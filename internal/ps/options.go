package ps

import (
	"cmp"
	"errors"
	"fmt"
	"strings"
)

// The columns of ps -ef and ps aux.
const (
	fullColumns = "user=UID,pid,ppid,c,stime,tty=TTY,time,cmd"
	userColumns = "user,pid,pcpu,pmem,vsz,rss,tty=TTY,stat,stime=START,time,command"
	fewColumns  = "pid,tty=TTY,time,cmd"
)

// Columns reads options of ps(1), as far as they choose columns; those that choose processes mean all here. Without options they are
// those of ps -ef.
func Columns(args []string) ([]Column, error) {
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
	return parseColumns(cmp.Or(chosen, list))
}

// parseColumns reads a list of columns NAME[=HEADING].
func parseColumns(text string) ([]Column, error) {
	var list []Column
	for _, item := range strings.FieldsFunc(text, func(r rune) bool { return r == ',' || r == ' ' }) {
		name, heading, renamed := strings.Cut(item, "=")
		c, ok := columns[cmp.Or(aliases[strings.ToLower(name)], strings.ToLower(name))]
		if !ok {
			return nil, fmt.Errorf("ps option -o: there is no column %q; these are: %s", name, strings.Join(Names(), " "))
		}
		if renamed {
			c.heading = heading
		}
		list = append(list, c)
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("ps option -o names no column; these are: %s", strings.Join(Names(), " "))
	}
	return list, nil
}

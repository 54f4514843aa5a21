package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/spf13/cobra"

	"github.com/runcvm/runcvm/internal/events"
)

// dockerEvent is an event with Docker's field names.
type dockerEvent struct {
	Status   string     `json:"status"`
	ID       string     `json:"id"`
	From     string     `json:"from"`
	Type     string     `json:"Type"`
	Action   string     `json:"Action"`
	Actor    eventActor `json:"Actor"`
	Scope    string     `json:"scope"`
	Time     int64      `json:"time"`
	TimeNano int64      `json:"timeNano"`
}

type eventActor struct {
	ID         string            `json:"ID"`
	Attributes map[string]string `json:"Attributes"`
}

func dockerEventOf(e events.Event) dockerEvent {
	return dockerEvent{
		Status: e.Action, ID: e.ID, From: e.Attributes["image"], Type: e.Type, Action: e.Action,
		Actor: eventActor{ID: e.ID, Attributes: e.Attributes}, Scope: "local", Time: e.Time.Unix(), TimeNano: e.Time.UnixNano(),
	}
}

type eventsFlags struct {
	since, until, format string
	filters              []string
}

func (a *app) eventsCommand() *cobra.Command {
	var f eventsFlags
	cmd := &cobra.Command{
		Use:   "events [flags]",
		Short: "Print what happens to containers, as it happens",
		Long: "Print what happens to containers, as it happens: create, start, restart, die, oom, kill, stop, pause, unpause,\n" +
			"rename, exec_create, exec_start, exec_die, destroy. With --since also what has happened before, as far as it is\n" +
			"kept (some 20,000 events); with --until only up to a moment.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.events(cmd.Context(), &f) },
	}
	cmd.Flags().StringVar(&f.since, "since", "", "from this moment on: a date and time, seconds since 1970, or how long ago")
	cmd.Flags().StringVar(&f.until, "until", "", "up to this moment")
	cmd.Flags().StringVar(&f.format, "format", "", "json, or a Go template")
	cmd.Flags().StringArrayVarP(&f.filters, "filter", "f", nil,
		"only those for which NAME=VALUE holds: container (name or id), event, image, label, type")
	return cmd
}

var eventFilters = filters[events.Event]{
	"container": func(v string) (func(events.Event) bool, error) {
		return func(e events.Event) bool {
			return e.Type == events.Container && (e.Attributes["name"] == v || v != "" && strings.HasPrefix(e.ID, v))
		}, nil
	},
	"event": func(v string) (func(events.Event) bool, error) {
		return func(e events.Event) bool { return e.Action == v || strings.HasPrefix(e.Action, v+":") }, nil
	},
	"image": func(v string) (func(events.Event) bool, error) {
		return func(e events.Event) bool {
			return fullName(e.Attributes["image"]) == fullName(v) || e.Type == events.Image && fullName(e.ID) == fullName(v)
		}, nil
	},
	"type": func(v string) (func(events.Event) bool, error) {
		return func(e events.Event) bool { return e.Type == v }, nil
	},
	"label": labelFilter(func(e events.Event) map[string]string { return e.Attributes }),
}

func (a *app) events(ctx context.Context, f *eventsFlags) error {
	now := time.Now()
	since, serr := momentFlag("since", f.since, now)
	until, uerr := momentFlag("until", f.until, now)
	match, ferr := eventFilters.compile(f.filters)
	write, terr := a.eventWriter(f.format)
	if err := errors.Join(serr, uerr, ferr, terr); err != nil {
		return err
	}
	if since.IsZero() && (until.IsZero() || until.After(now)) {
		since = now
	}
	r, err := events.Open(a.cfg.DataDir).Read()
	if err != nil {
		return err
	}
	defer func() { _ = r.Close() }() // it was only read
	for {
		e, err := r.Next()
		switch {
		case errors.Is(err, io.EOF):
			if !until.IsZero() && time.Now().After(until) {
				return nil
			}
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(followPause):
			}
		case err != nil:
			return err
		case !until.IsZero() && e.Time.After(until):
			return nil
		case !e.Time.Before(since) && match(e):
			if err := write(e); err != nil {
				return err
			}
		}
	}
}

// eventWriter prints events as docker events does.
func (a *app) eventWriter(format string) (func(events.Event) error, error) {
	switch format {
	case "":
		return a.writeEvent, nil
	case "json":
		format = "{{json .}}"
	}
	t, err := parseTemplate(unescape(format))
	if err != nil {
		return nil, err
	}
	return func(e events.Event) error {
		var line strings.Builder
		if err := t.Execute(&line, dockerEventOf(e)); err != nil {
			return fmt.Errorf("--format: %w", err)
		}
		_, err := fmt.Fprintln(a.stdout, line.String())
		return err
	}, nil
}

// eventTime is RFC 3339 with all nine digits of nanoseconds, as Docker prints it.
const eventTime = "2006-01-02T15:04:05.000000000Z07:00"

func (a *app) writeEvent(e events.Event) error {
	var attributes []string
	for _, name := range slices.Sorted(maps.Keys(e.Attributes)) {
		attributes = append(attributes, name+"="+e.Attributes[name])
	}
	line := fmt.Sprintf("%s %s %s %s", e.Time.Local().Format(eventTime), e.Type, e.Action, e.ID)
	if len(attributes) > 0 {
		line += " (" + strings.Join(attributes, ", ") + ")"
	}
	_, err := fmt.Fprintln(a.stdout, oneLine(line))
	return err
}

// oneLine writes out what a terminal would act on but a tab: an argument of a command, an image's label, or what a registry says may
// hold anything.
func oneLine(text string) string {
	var b strings.Builder
	for _, r := range text {
		if unicode.IsControl(r) && r != '\t' {
			quoted := strconv.QuoteRuneToASCII(r)
			b.WriteString(quoted[1 : len(quoted)-1])
		} else {
			b.WriteRune(r)
		}
	}
	return b.String()
}

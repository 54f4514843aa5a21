package api

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// levelOff is above every level that is used.
const levelOff = slog.Level(100)

var levels = map[string]slog.Level{
	"off": levelOff, "error": slog.LevelError, "warn": slog.LevelWarn,
	"info": slog.LevelInfo, "debug": slog.LevelDebug, "trace": slog.LevelDebug - 4,
}

// Log writes lines in Firecracker's format, "<time> [<id>:<thread>:<level>] <message>", to standard output until
// [Log.Update] names a file. It may be used from any goroutine.
type Log struct {
	id string

	mu                    sync.Mutex
	out                   io.Writer
	file                  *os.File
	level                 slog.Level
	showLevel, showOrigin bool
}

// NewLog makes a log of the microVM id that writes to out at level info.
func NewLog(id string, out io.Writer) *Log { return &Log{id: id, out: out} }

// openOutput opens a file or named pipe for output as Firecracker does: created when it is not there, never truncated,
// and without waiting for a pipe's reader.
func openOutput(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_APPEND|unix.O_NONBLOCK, 0o666)
}

// Update applies a logger configuration; a level that is not given is info, and what else is not given stays.
func (l *Log) Update(c Logger) error {
	var file *os.File
	if c.LogPath != nil {
		f, err := openOutput(*c.LogPath)
		if err != nil {
			return err
		}
		file = f
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if file != nil {
		if l.file != nil {
			_ = l.file.Close() // every line has been written to it
		}
		l.out, l.file = file, file
	}
	l.level = slog.LevelInfo
	if c.Level != nil {
		l.level = levels[*c.Level]
	}
	set(&l.showLevel, c.ShowLevel)
	set(&l.showOrigin, c.ShowLogOrigin)
	return nil
}

// Logger gives the log as slog's.
func (l *Log) Logger() *slog.Logger { return slog.New(&logHandler{log: l}) }

type logHandler struct {
	log   *Log
	attrs []slog.Attr
}

func (h *logHandler) Enabled(_ context.Context, level slog.Level) bool {
	h.log.mu.Lock()
	defer h.log.mu.Unlock()
	return level >= h.log.level
}

func (h *logHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &logHandler{log: h.log, attrs: append(slices.Clip(h.attrs), attrs...)}
}

// WithGroup keeps the attributes flat: the format has no groups.
func (h *logHandler) WithGroup(string) slog.Handler { return h }

func (h *logHandler) Handle(_ context.Context, r slog.Record) error {
	l := h.log
	l.mu.Lock()
	defer l.mu.Unlock()
	var b strings.Builder
	fmt.Fprintf(&b, "%s [%s:main", r.Time.Format("2006-01-02T15:04:05.000000000"), l.id)
	if l.showLevel {
		b.WriteString(":" + r.Level.String())
	}
	if l.showOrigin {
		frame, _ := runtime.CallersFrames([]uintptr{r.PC}).Next()
		fmt.Fprintf(&b, ":%s:%d", filepath.Base(frame.File), frame.Line)
	}
	b.WriteString("] " + r.Message)
	for _, a := range h.attrs {
		fmt.Fprintf(&b, " %s=%v", a.Key, a.Value)
	}
	r.Attrs(func(a slog.Attr) bool {
		fmt.Fprintf(&b, " %s=%v", a.Key, a.Value)
		return true
	})
	b.WriteByte('\n')
	_, err := io.WriteString(l.out, b.String())
	return err
}

// now is the clock of metrics.
var now = time.Now

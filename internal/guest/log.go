package guest

import (
	"io"
	"log/slog"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// maxLogLine bounds one line on the console, in bytes: under a VMM each byte of it costs an exit.
const maxLogLine = 4096

// setupLog sends the log to the console. Nothing is lost where there is none: the kernel gives PID 1 the console as standard
// error.
func setupLog(level slog.Leveler) {
	var w io.Writer = os.Stderr
	if f, err := os.OpenFile("/dev/console", os.O_WRONLY|unix.O_NOCTTY, 0); err == nil {
		w = f
	}
	slog.SetDefault(slog.New(slog.NewTextHandler(lineWriter{w}, &slog.HandlerOptions{Level: level, ReplaceAttr: shortTime})))
}

// shortTime gives the seconds since boot in place of the time of day, as the kernel's own lines on the console do.
func shortTime(groups []string, a slog.Attr) slog.Attr {
	if len(groups) == 0 && a.Key == slog.TimeKey {
		return slog.String("up", strconv.FormatFloat(float64(bootNanos())/1e9, 'f', 3, 64))
	}
	return a
}

// lineWriter cuts what is too long for one line. slog writes one line a call.
type lineWriter struct{ w io.Writer }

func (l lineWriter) Write(b []byte) (int, error) {
	if len(b) <= maxLogLine {
		return l.w.Write(b)
	}
	cut := append(append([]byte{}, b[:maxLogLine-5]...), " ...\n"...)
	if _, err := l.w.Write(cut); err != nil {
		return 0, err
	}
	return len(b), nil
}

// parseLevel reads a level of slog by its name.
func parseLevel(name string) (slog.Level, error) {
	var l slog.Level
	if name == "" {
		return l, nil
	}
	err := l.UnmarshalText([]byte(name))
	return l, err
}

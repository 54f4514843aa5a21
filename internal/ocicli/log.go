package ocicli

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strconv"
	"time"
)

// runtimeLog is what engines read errors from: lines as runc writes them.
type runtimeLog struct {
	w     io.Writer
	json  bool
	level int
}

const (
	levelInfo = iota
	levelDebug
)

// openLog opens the log of --log and --log-format. It stays open until the process ends.
func openLog(path, format string, level int) (*runtimeLog, error) {
	l := &runtimeLog{w: os.Stderr, level: level}
	switch format {
	case "", "text":
	case "json":
		l.json = true
	default:
		return nil, fmt.Errorf("invalid log-format: %s: text or json", format)
	}
	if path == "" {
		return l, nil
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND|os.O_SYNC, 0o644)
	if err != nil {
		return nil, fmt.Errorf("--log: %w", err)
	}
	l.w = f
	return l, nil
}

// elsewhere says whether the log is not standard error.
func (l *runtimeLog) elsewhere() bool { return l.w != os.Stderr }

func (l *runtimeLog) error(text string) { l.write("error", text) }
func (l *runtimeLog) warn(text string)  { l.write("warning", text) }
func (l *runtimeLog) debugf(text string) {
	if l.level >= levelDebug {
		l.write("debug", text)
	}
}

// write writes one line. One that cannot be written is lost: what the verb does matters more.
func (l *runtimeLog) write(level, text string) {
	now := time.Now().Format(time.RFC3339)
	if !l.json {
		fmt.Fprintf(l.w, "time=%q level=%s msg=%s\n", now, level, strconv.Quote(text))
		return
	}
	_ = json.NewEncoder(l.w).Encode(struct {
		Level string `json:"level"`
		Msg   string `json:"msg"`
		Time  string `json:"time"`
	}{level, text, now})
}

package ocicli

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"
)

func TestTheLogHasTheLinesThatEnginesRead(t *testing.T) {
	var b bytes.Buffer
	l := &runtimeLog{w: &b, json: true}
	l.error(`exec: "x": executable file not found in $PATH`)
	var line struct{ Level, Msg, Time string }
	if err := json.Unmarshal(b.Bytes(), &line); err != nil {
		t.Fatal(err)
	}
	if _, err := time.Parse(time.RFC3339, line.Time); err != nil || line.Level != "error" ||
		line.Msg != `exec: "x": executable file not found in $PATH` {
		t.Errorf("%s", b.String())
	}
	b.Reset()
	(&runtimeLog{w: &b}).error("two\nlines")
	if text := b.String(); strings.Count(text, "\n") != 1 || !strings.Contains(text, `level=error msg="two\nlines"`) {
		t.Errorf("%q", text)
	}
}

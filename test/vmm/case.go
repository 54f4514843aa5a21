package vmm

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Step is one request.
type Step struct {
	Method, Path string
	// Body is sent with its length when it is not empty. {{dir}} is the case's directory.
	Body string
	// Raw is sent as it stands in place of a request made of the fields above.
	Raw string
}

// Case is a sequence of requests to a fresh VMM.
type Case struct {
	Name string
	// Boots says that the case starts a guest, which a real Firecracker does only with KVM.
	Boots bool
	Steps []Step
}

// Answer is what came back, with the case's directory written as {{dir}}.
type Answer struct {
	Request    string          `json:"request"`
	Status     int             `json:"status"`
	Deprecated bool            `json:"deprecated,omitempty"`
	Body       json.RawMessage `json:"body,omitempty"` // as JSON, or a JSON string of what is not JSON
}

// Recording is all that one version answered.
type Recording struct {
	Version string              `json:"version"`
	Cases   map[string][]Answer `json:"cases"`
	// Commands says how each run of [Commands] ended.
	Commands map[string]string `json:"commands"`
}

// Differences are the ways in which firecracker-qemu rightly departs from Firecracker.
type Differences struct {
	Answers  []Difference        `json:"answers"`
	Commands []CommandDifference `json:"commands"`
}

// CommandDifference is another end of a run.
type CommandDifference struct {
	Command string `json:"command"`
	Reason  string `json:"reason"`
	Ends    string `json:"ends"`
}

// Difference is another answer.
type Difference struct {
	Case       string          `json:"case"`
	Step       int             `json:"step"` // counted from 0
	Reason     string          `json:"reason"`
	Status     int             `json:"status"`
	Deprecated bool            `json:"deprecated,omitempty"`
	Body       json.RawMessage `json:"body,omitempty"`
}

func (s Step) describe() string {
	if s.Raw != "" {
		const enough = 120
		return "raw " + s.Raw[:min(len(s.Raw), enough)]
	}
	body := s.Body
	if !utf8.ValidString(body) {
		body = strconv.QuoteToASCII(body) // JSON holds no other bytes
	}
	const longest = 300
	if len(body) > longest {
		body = fmt.Sprintf("%s... (%d bytes)", body[:longest/3], len(body))
	}
	return strings.TrimSpace(s.Method + " " + s.Path + " " + body)
}

// place is where a case runs. Its names have fixed lengths, for error messages count columns.
type place struct {
	dir string // {{dir}} in requests and recordings
	tap string // stands for tapName, so that two tests on one host do not meet
}

// tapName begins the names of network interfaces in requests and recordings.
const tapName = "vmmgold"

func newPlace() (place, error) {
	p := place{
		dir: filepath.Join(os.TempDir(), fmt.Sprintf("vmm-%016x", rand.Uint64())),
		tap: fmt.Sprintf("v%06x", rand.Uint32N(1<<24)),
	}
	if err := os.Mkdir(p.dir, 0o700); err != nil {
		return p, err
	}
	if err := prepare(p.dir); err != nil {
		return p, errors.Join(err, os.RemoveAll(p.dir))
	}
	return p, nil
}

func (p place) expand(text string) string {
	return strings.NewReplacer("{{dir}}", p.dir, tapName, p.tap).Replace(text)
}

// request is what goes over the socket.
func (s Step) request(p place) []byte {
	expand := p.expand
	if s.Raw != "" {
		return []byte(expand(s.Raw))
	}
	body := expand(s.Body)
	head := fmt.Sprintf("%s %s HTTP/1.1\r\nHost: localhost\r\nAccept: application/json\r\n", s.Method, s.Path)
	if body != "" {
		head += fmt.Sprintf("Content-Type: application/json\r\nContent-Length: %d\r\n", len(body))
	}
	return []byte(head + "\r\n" + body)
}

// sortDevices orders the devices of GET /vm/config by their ids: of a running guest Firecracker lists them in random order.
func sortDevices(body json.RawMessage) json.RawMessage {
	var fields map[string]json.RawMessage
	if json.Unmarshal(body, &fields) != nil {
		return body
	}
	for _, name := range []string{"drives", "network-interfaces"} {
		var list []json.RawMessage
		if json.Unmarshal(fields[name], &list) != nil || len(list) < 2 {
			continue
		}
		// An element begins with its id.
		slices.SortFunc(list, func(a, b json.RawMessage) int { return bytes.Compare(a, b) })
		sorted := append([]byte{'['}, bytes.Join(bytesOf(list), []byte{','})...)
		body = bytes.Replace(body, fields[name], append(sorted, ']'), 1)
	}
	return body
}

func bytesOf(list []json.RawMessage) [][]byte {
	out := make([][]byte, len(list))
	for k, e := range list {
		out[k] = e
	}
	return out
}

// normalise makes a body comparable: JSON without insignificant white space, and without the place's own names.
func normalise(body []byte, p place) (json.RawMessage, error) {
	body = []byte(strings.NewReplacer(p.dir, "{{dir}}", p.tap, tapName).Replace(string(body)))
	if len(body) == 0 {
		return nil, nil
	}
	var out bytes.Buffer
	if json.Compact(&out, body) == nil {
		return out.Bytes(), nil
	}
	text, err := json.Marshal(string(body))
	return text, err
}

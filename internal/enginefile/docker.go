package enginefile

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/tailscale/hujson"
)

// Docker is dockerd, which reads one file.
var Docker = Engine{
	Name:   "docker",
	Reload: "Next: systemctl reload docker (at SIGHUP dockerd reads its file again; containers go on)",
	Use:    "docker run --runtime %s IMAGE",
	files:  func(root string) ([]string, error) { return []string{dockerFile(root)}, nil },
	own:    dockerFile,
	format: daemonJSON{},
}

func dockerFile(root string) string { return filepath.Join(root, "/etc/docker/daemon.json") }

// daemonJSON is daemon.json: strict JSON, whose members are matched by their exact names.
type daemonJSON struct{}

const (
	keyRuntimes = "runtimes"
	keyDefault  = "default-runtime"
	keyPath     = "path"
)

// byteOrderMark may stand in front, which dockerd skips.
var byteOrderMark = []byte("\xef\xbb\xbf")

// parse returns the file's syntax tree, in which every byte has its place. An empty file is an empty object.
func (daemonJSON) parse(text []byte) (*hujson.Value, *hujson.Object, error) {
	text = bytes.TrimPrefix(text, byteOrderMark)
	if len(bytes.TrimSpace(text)) == 0 {
		o := &hujson.Object{}
		return &hujson.Value{Value: o, AfterExtra: hujson.Extra("\n")}, o, nil
	}
	// What hujson knows beyond JSON, comments and commas at the end, dockerd refuses.
	var strict map[string]json.RawMessage
	if err := json.Unmarshal(text, &strict); err != nil {
		return nil, nil, at(text, err)
	}
	v, err := hujson.Parse(text)
	if err != nil {
		return nil, nil, err
	}
	o, ok := v.Value.(*hujson.Object)
	if !ok {
		return nil, nil, errors.New("it is no JSON object")
	}
	return &v, o, checkNames(o, "")
}

// at adds the line to an error of JSON.
func at(text []byte, err error) error {
	var offset int64
	if e := new(json.SyntaxError); errors.As(err, &e) {
		offset = e.Offset
	} else if e := new(json.UnmarshalTypeError); errors.As(err, &e) {
		return errors.New("it is no JSON object")
	}
	offset = min(max(offset, 0), int64(len(text)))
	return fmt.Errorf("line %d: %w", 1+bytes.Count(text[:offset], []byte("\n")), err)
}

// checkNames refuses a name that is there twice: of two, readers take the one or the other.
func checkNames(o *hujson.Object, where string) error {
	seen := map[string]bool{}
	for _, m := range o.Members {
		name := memberName(m)
		if seen[name] {
			return fmt.Errorf("%q is there twice%s", name, where)
		}
		seen[name] = true
	}
	return nil
}

func memberName(m hujson.ObjectMember) string {
	l, _ := m.Name.Value.(hujson.Literal)
	return l.String()
}

// member is the index of a member; -1 where it is not there.
func member(o *hujson.Object, name string) int {
	return slices.IndexFunc(o.Members, func(m hujson.ObjectMember) bool { return memberName(m) == name })
}

// runtimes is the object of that name; nil where there is none, or null.
func (daemonJSON) runtimes(o *hujson.Object) (*hujson.Object, error) {
	i := member(o, keyRuntimes)
	if i < 0 {
		return nil, nil
	}
	switch v := o.Members[i].Value.Value.(type) {
	case *hujson.Object:
		return v, checkNames(v, " in "+keyRuntimes)
	case hujson.Literal:
		if v.Kind() == 'n' {
			return nil, nil
		}
	}
	return nil, fmt.Errorf("%s is no object", keyRuntimes)
}

func (d daemonJSON) read(text []byte) ([]Runtime, error) {
	_, o, err := d.parse(text)
	if err != nil {
		return nil, err
	}
	standard := ""
	if i := member(o, keyDefault); i >= 0 {
		if l, ok := o.Members[i].Value.Value.(hujson.Literal); ok {
			standard = l.String()
		}
	}
	list, err := d.runtimes(o)
	if err != nil || list == nil {
		return nil, err
	}
	var all []Runtime
	for _, m := range list.Members {
		r := Runtime{Name: memberName(m)}
		r.Default = r.Name == standard
		if entry, ok := m.Value.Value.(*hujson.Object); ok {
			if i := member(entry, keyPath); i >= 0 {
				l, _ := entry.Members[i].Value.Value.(hujson.Literal)
				r.Path, r.Plain = l.String(), len(entry.Members) == 1
			}
		}
		all = append(all, r)
	}
	return all, nil
}

func (d daemonJSON) set(text []byte, name, path string) ([]byte, error) {
	root, o, err := d.parse(text)
	if err != nil {
		return nil, err
	}
	list, err := d.runtimes(o)
	if err != nil {
		return nil, err
	}
	s := styleOf(o)
	var indent string
	if i := member(o, keyRuntimes); i < 0 {
		list = &hujson.Object{}
		s, indent = s.add(o, keyRuntimes, list, "")
	} else {
		if list == nil { // null
			list = &hujson.Object{}
			o.Members[i].Value.Value = list
		}
		s, indent = s.inside(o.Members[i])
	}
	if i := member(list, name); i < 0 {
		entry := &hujson.Object{}
		s, indent = s.add(list, name, entry, indent)
		s.add(entry, keyPath, hujson.String(path), indent)
	} else if entry, ok := list.Members[i].Value.Value.(*hujson.Object); ok {
		// Ours, of another path. What else somebody has added stays.
		entry.Members[member(entry, keyPath)].Value.Value = hujson.String(path)
	}
	return d.pack(root, text), nil
}

func (d daemonJSON) remove(text []byte, name string) ([]byte, error) {
	root, o, err := d.parse(text)
	if err != nil {
		return nil, err
	}
	list, err := d.runtimes(o)
	if err != nil {
		return nil, err
	}
	drop(list, name)
	if len(list.Members) == 0 {
		drop(o, keyRuntimes)
	}
	if len(o.Members) == 0 {
		return nil, nil
	}
	return d.pack(root, text), nil
}

func (daemonJSON) pack(root *hujson.Value, before []byte) []byte {
	b := root.Pack()
	if bytes.HasPrefix(before, byteOrderMark) {
		b = append(slices.Clone(byteOrderMark), b...)
	}
	return b
}

// style is how a file, or an object in it, is laid out.
type style struct {
	newline string // empty where all is on one line
	indent  string // of one level
	colon   string // what stands behind it
	comma   string // what stands behind it on a line
}

func styleOf(o *hujson.Object) style {
	s := style{newline: "\n", indent: "  ", colon: " ", comma: " "}
	if len(o.Members) == 0 {
		return s
	}
	s.colon = string(o.Members[0].Value.BeforeExtra)
	before := string(o.Members[0].Name.BeforeExtra)
	head, indent, ok := cutLine(before)
	switch {
	case ok:
		s.indent = indent
		if strings.HasSuffix(head, "\r") {
			s.newline = "\r\n"
		}
	case len(o.Members) > 1:
		s.newline, s.comma = "", string(o.Members[1].Name.BeforeExtra)
	default:
		s.newline, s.comma = "", s.colon
	}
	return s
}

// cutLine cuts white space at the last line that it begins.
func cutLine(space string) (head, indent string, ok bool) {
	i := strings.LastIndexByte(space, '\n')
	if i < 0 {
		return "", "", false
	}
	return space[:i], space[i+1:], true
}

// inside is the style in a member's value, and the indent of the line where the member begins.
func (s style) inside(m hujson.ObjectMember) (style, string) {
	_, indent, ok := cutLine(string(m.Name.BeforeExtra))
	if !ok {
		s.newline = ""
	}
	return s, indent
}

// add adds a member at the end of an object that ends on a line with this indent, and returns what inside does of it.
func (s style) add(o *hujson.Object, name string, value hujson.ValueTrimmed, indent string) (style, string) {
	m := hujson.ObjectMember{Name: hujson.Value{Value: hujson.String(name)}}
	m.Value = hujson.Value{BeforeExtra: hujson.Extra(s.colon), Value: value}
	before := ""
	if n := len(o.Members); n > 0 {
		before = s.comma
		if _, indent, ok := cutLine(string(o.Members[n-1].Name.BeforeExtra)); ok {
			before = cmp.Or(s.newline, "\n") + indent
		}
	} else if o.AfterExtra = nil; s.newline != "" {
		before, o.AfterExtra = s.newline+indent+s.indent, hujson.Extra(s.newline+indent)
	}
	m.Name.BeforeExtra = hujson.Extra(before)
	o.Members = append(o.Members, m)
	return s.inside(m)
}

// drop takes a member out.
func drop(o *hujson.Object, name string) {
	i := member(o, name)
	o.Members = slices.Delete(o.Members, i, i+1)
	if n := len(o.Members); n > 0 {
		o.Members[n-1].Value.AfterExtra = nil // white space there would bring a comma
	}
}

func (daemonJSON) empty() []byte { return []byte("{}\n") }

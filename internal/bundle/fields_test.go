package bundle

import (
	"reflect"
	"slices"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// leaves lists the paths of all that a type can hold. A path that has a row is not looked into.
func leaves(t reflect.Type, at string) []string {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if _, ok := rows[at]; ok {
		return []string{at}
	}
	var all []string
	switch t.Kind() {
	case reflect.Struct:
		for _, f := range fieldsOf(t) {
			all = append(all, leaves(f.typ, join(at, f.name))...)
		}
	case reflect.Slice:
		if isStruct(t.Elem()) {
			return leaves(t.Elem(), at+"[]")
		}
		all = []string{at}
	case reflect.Map:
		if isStruct(t.Elem()) {
			return leaves(t.Elem(), at+"{}")
		}
		all = []string{at}
	default:
		all = []string{at}
	}
	return all
}

func isStruct(t reflect.Type) bool {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	return t.Kind() == reflect.Struct
}

func TestEveryFieldOfTheSpecificationHasOneRow(t *testing.T) {
	all := leaves(reflect.TypeFor[specs.Spec](), "")
	if len(all) < 100 {
		t.Fatalf("the walk found only %q", all)
	}
	for _, path := range all {
		if _, ok := rows[path]; !ok {
			t.Errorf("%s has no row: say in fields.go who does it, and do it", path)
		}
	}
	for _, f := range Fields {
		if !slices.Contains(all, f.Path) {
			t.Errorf("the row %s is of no field of the specification", f.Path)
		}
		if f.Text == "" && (f.Place == Met || f.Place == Refused) {
			t.Errorf("%s is %s without a reason", f.Path, f.Place)
		}
		for _, word := range []string{"no such file or directory", "permission denied", "not a directory", "executable file not found"} {
			if strings.Contains(f.Text, word) {
				t.Errorf("%s: an engine takes %q for the container's program", f.Path, word)
			}
		}
	}
	if len(rows) != len(Fields) {
		t.Errorf("%d rows for %d fields", len(Fields), len(rows))
	}
}

// typeAt is the type at a path of the specification.
func typeAt(t *testing.T, path string) reflect.Type {
	at := reflect.TypeFor[specs.Spec]()
	for name := range strings.SplitSeq(path, ".") {
		bare := strings.TrimRight(name, "[]{}")
		for at.Kind() == reflect.Pointer {
			at = at.Elem()
		}
		i := slices.IndexFunc(fieldsOf(at), func(f jsonField) bool { return f.name == bare })
		if i < 0 {
			t.Fatalf("%s: no field %s", path, bare)
		}
		at = fieldsOf(at)[i].typ
		if bare != name {
			at = at.Elem()
		}
	}
	return at
}

// Only a refusal may stand for more than one field: anything else must say of each what it becomes.
func TestARowOfMoreThanOneFieldIsARefusal(t *testing.T) {
	for _, f := range Fields {
		at := typeAt(t, f.Path)
		for at.Kind() == reflect.Pointer || at.Kind() == reflect.Slice || at.Kind() == reflect.Map {
			at = at.Elem()
		}
		if at.Kind() == reflect.Struct && f.Place != Refused {
			t.Errorf("%s is %s, and has fields of its own", f.Path, f.Place)
		}
	}
}

// fill gives v a value that is present, and everything on the way to the rest of path.
func fill(v reflect.Value, path []string) {
	for v.Kind() == reflect.Pointer {
		if v.IsNil() {
			v.Set(reflect.New(v.Type().Elem()))
		}
		v = v.Elem()
	}
	switch v.Kind() {
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fill(v.Index(0), path)
	case reflect.Map:
		e := reflect.New(v.Type().Elem()).Elem()
		fill(e, path)
		v.Set(reflect.MakeMap(v.Type()))
		v.SetMapIndex(reflect.ValueOf("key"), e)
	case reflect.Struct:
		if len(path) == 0 {
			fill(v.Field(0), nil)
			return
		}
		bare := strings.TrimRight(path[0], "[]{}")
		for _, f := range fieldsOf(v.Type()) {
			if f.name == bare {
				fill(v.FieldByIndex(f.index), path[1:])
			}
		}
	case reflect.String:
		v.SetString("x")
	case reflect.Bool:
		v.SetBool(true)
	default:
		v.Set(reflect.ValueOf(1).Convert(v.Type()))
	}
}

func TestAPresentFieldIsJudgedByItsRow(t *testing.T) {
	for _, f := range Fields {
		b := &Bundle{Spec: &specs.Spec{}}
		fill(reflect.ValueOf(b.Spec).Elem(), strings.Split(f.Path, "."))
		r := b.judge()
		where := strings.NewReplacer("[]", "[0]", "{}", `["key"]`).Replace(f.Path) + ": "
		refused := r.err() != nil && strings.HasPrefix(r.err().Error(), where)
		noted := len(r.notes) == 1 && strings.HasPrefix(r.notes[0], where)
		if refused != (f.Place == Refused) || noted != (f.Place == Met) {
			t.Errorf("%s is %s: %v, notes %q", f.Path, f.Place, r.err(), r.notes)
		}
	}
	empty := `{"linux":{"uidMappings":[],"intelRdt":{},"seccomp":{"listenerPath":""},"resources":{"memory":{"swappiness":0,"disableOOMKiller":false}}},"vm":null}`
	_, r, err := parse([]byte(empty))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range r.faults {
		if strings.Contains(f.Error(), "linux.u") || strings.Contains(f.Error(), "OOM") || strings.HasPrefix(f.Error(), "vm") {
			t.Errorf("an empty field: %v", f)
		}
	}
}

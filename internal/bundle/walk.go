package bundle

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// rows finds a field's row by its path.
var rows = func() map[string]Field {
	m := map[string]Field{}
	for _, f := range Fields {
		m[f.Path] = f
	}
	return m
}()

// walk calls visit for each field below v, whose path is at, that is present and has a row. where is the same path with the
// element's number or key in place of [] and {}.
func walk(v reflect.Value, at, where string, visit func(f Field, where string)) {
	for v.Kind() == reflect.Pointer {
		if v.IsNil() {
			return
		}
		v = v.Elem()
	}
	if f, ok := rows[at]; ok {
		if present(v) {
			visit(f, where)
		}
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		for _, f := range fieldsOf(v.Type()) {
			walk(v.FieldByIndex(f.index), join(at, f.name), join(where, f.name), visit)
		}
	case reflect.Slice:
		for i := range v.Len() {
			walk(v.Index(i), at+"[]", where+"["+strconv.Itoa(i)+"]", visit)
		}
	case reflect.Map:
		byName := func(a, b reflect.Value) int { return strings.Compare(a.String(), b.String()) }
		for _, k := range slices.SortedFunc(slices.Values(v.MapKeys()), byName) {
			walk(v.MapIndex(k), at+"{}", where+"["+strconv.Quote(k.String())+"]", visit)
		}
	}
}

// present says whether a value is another than its type's zero or an empty one.
func present(v reflect.Value) bool {
	if v.Kind() == reflect.Slice || v.Kind() == reflect.Map {
		return v.Len() > 0
	}
	return !v.IsZero()
}

// jsonField is a field of a Go type by its name in JSON.
type jsonField struct {
	name  string
	index []int
	typ   reflect.Type
}

// fieldsOf lists the fields of a type of the runtime specification; those of embedded types are its own.
func fieldsOf(t reflect.Type) []jsonField {
	var all []jsonField
	for _, f := range reflect.VisibleFields(t) {
		if f.Anonymous || !f.IsExported() {
			continue
		}
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		all = append(all, jsonField{name, f.Index, f.Type})
	}
	return all
}

func join(at, name string) string {
	if at == "" {
		return name
	}
	return at + "." + name
}

// unknown lists the paths of the properties in raw that a type does not have. The specification wants them to be ignored, so they
// are noted. raw is JSON that has been decoded into the type already.
func unknown(raw json.RawMessage, t reflect.Type, where string) []string {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	var found []string
	switch t.Kind() {
	case reflect.Struct:
		var object map[string]json.RawMessage
		if json.Unmarshal(raw, &object) != nil {
			return nil
		}
		fields := fieldsOf(t)
		for _, key := range slices.Sorted(maps.Keys(object)) {
			// encoding/json takes names in any case, and so do runc and crun's callers.
			i := slices.IndexFunc(fields, func(f jsonField) bool { return strings.EqualFold(f.name, key) })
			if i < 0 {
				found = append(found, join(where, fmt.Sprintf("%.64s", key)))
				continue
			}
			found = append(found, unknown(object[key], fields[i].typ, join(where, fields[i].name))...)
		}
	case reflect.Slice:
		var array []json.RawMessage
		if json.Unmarshal(raw, &array) != nil {
			return nil
		}
		for i, e := range array {
			found = append(found, unknown(e, t.Elem(), where+"["+strconv.Itoa(i)+"]")...)
		}
	case reflect.Map:
		var object map[string]json.RawMessage
		if json.Unmarshal(raw, &object) != nil {
			return nil
		}
		for _, key := range slices.Sorted(maps.Keys(object)) {
			found = append(found, unknown(object[key], t.Elem(), where+"["+strconv.Quote(key)+"]")...)
		}
	}
	return found
}

package serde

import "fmt"

// Field is one field of a struct.
type Field struct {
	name  string
	value Value
	// optional fields may be left out of an object; those with a default may also be left out of an array.
	optional, hasDefault bool
}

// Required is a field that must be there.
func Required(name string, v Value) Field { return Field{name: name, value: v} }

// Optional is a field of type Option: null when left out.
func Optional[T any](name string, p **T, inner func(*T) Value) Field {
	return Field{name: name, value: Option(p, inner), optional: true}
}

// Default is a field that keeps its target's value when left out.
func Default(name string, v Value) Field {
	return Field{name: name, value: v, optional: true, hasDefault: true}
}

// Struct expects an object (or, as serde allows, an array) with fields, and no others.
func Struct(name string, fields ...Field) Value { return structValue(name, true, fields) }

// Lenient is a Struct that ignores unknown fields.
func Lenient(name string, fields ...Field) Value { return structValue(name, false, fields) }

func structValue(name string, strict bool, fields []Field) Value {
	return func(d *decoder) *Error {
		c, err := d.value()
		if err != nil {
			return err
		}
		switch c {
		case '{':
			return d.fix(d.object(func() *Error { return d.fields(strict, fields) }))
		case '[':
			return d.fix(d.array(func() *Error { return d.elements(name, fields) }))
		}
		return d.wrongType("struct " + name)
	}
}

// object runs body between the braces, and looks for the closing one even after an error, as serde_json does.
func (d *decoder) object(body func() *Error) *Error {
	if err := d.enter(); err != nil {
		return err
	}
	d.i++
	err := body()
	d.leave()
	end := d.endObject()
	if err != nil {
		return err
	}
	return end
}

func (d *decoder) endObject() *Error {
	switch c, ok := d.space(); {
	case !ok:
		return d.peekError("EOF while parsing an object")
	case c == '}':
		d.i++
		return nil
	case c == ',':
		return d.peekError("trailing comma")
	}
	return d.peekError("trailing characters")
}

func (d *decoder) fields(strict bool, fields []Field) *Error {
	seen := make([]bool, len(fields))
	first := true
	for {
		key, more, err := d.nextKey(&first)
		if err != nil {
			return err
		}
		if !more {
			break
		}
		k := indexOf(fields, key)
		switch {
		case k < 0 && strict:
			return &Error{Msg: "unknown field `" + key + "`, expected " + oneOf(names(fields))}
		case k >= 0 && seen[k]:
			return &Error{Msg: "duplicate field `" + key + "`"}
		}
		if err := d.colon(); err != nil {
			return err
		}
		if k < 0 {
			if err := d.skip(); err != nil {
				return err
			}
			continue
		}
		seen[k] = true
		if err := fields[k].value(d); err != nil {
			return err
		}
	}
	for k, f := range fields {
		if !seen[k] && !f.optional {
			return &Error{Msg: "missing field `" + f.name + "`"}
		}
	}
	return nil
}

func (d *decoder) elements(name string, fields []Field) *Error {
	first := true
	for k, f := range fields {
		more, err := d.nextElement(&first)
		if err != nil {
			return err
		}
		if !more {
			if f.hasDefault {
				continue
			}
			plural := "s"
			if len(fields) == 1 {
				plural = ""
			}
			return &Error{Msg: fmt.Sprintf("invalid length %d, expected struct %s with %d element%s", k, name, len(fields), plural)}
		}
		if err := f.value(d); err != nil {
			return err
		}
	}
	return nil
}

// nextKey reads the next key of an object, if there is one.
func (d *decoder) nextKey(first *bool) (string, bool, *Error) {
	c, ok := d.space()
	switch {
	case !ok:
		return "", false, d.peekError("EOF while parsing an object")
	case c == '}':
		return "", false, nil
	case *first:
		*first = false
	case c != ',':
		return "", false, d.peekError("expected `,` or `}`")
	default:
		d.i++
		if c, ok = d.space(); !ok {
			return "", false, d.peekError("EOF while parsing a value")
		}
		if c == '}' {
			return "", false, d.peekError("trailing comma")
		}
	}
	if c != '"' {
		return "", false, d.peekError("key must be a string")
	}
	key, err := d.str()
	return key, err == nil, err
}

func (d *decoder) colon() *Error {
	switch c, ok := d.space(); {
	case !ok:
		return d.peekError("EOF while parsing an object")
	case c != ':':
		return d.peekError("expected `:`")
	}
	d.i++
	return nil
}

func indexOf(fields []Field, name string) int {
	for k, f := range fields {
		if f.name == name {
			return k
		}
	}
	return -1
}

func names(fields []Field) []string {
	out := make([]string, len(fields))
	for k, f := range fields {
		out[k] = f.name
	}
	return out
}

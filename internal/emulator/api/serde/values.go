package serde

import (
	"fmt"
	"slices"
	"strings"
)

// String expects a string.
func String(p *string) Value { return stringLike(p, "a string", nil) }

// Path expects a string that is a path.
func Path(p *string) Value { return stringLike(p, "path string", nil) }

// Checked expects a string that check accepts; check returns the fault in Rust's words, or an empty string.
func Checked(p *string, check func(string) string) Value { return stringLike(p, "a string", check) }

func stringLike(p *string, expected string, check func(string) string) Value {
	return func(d *decoder) *Error {
		c, err := d.value()
		if err != nil {
			return err
		}
		if c != '"' {
			return d.wrongType(expected)
		}
		s, err := d.str()
		if err != nil {
			return err
		}
		*p = s
		if check != nil {
			if msg := check(s); msg != "" {
				return &Error{Msg: msg} // placed where the enclosing object ends
			}
		}
		return nil
	}
}

// Bool expects a boolean.
func Bool(p *bool) Value {
	return func(d *decoder) *Error {
		c, err := d.value()
		if err != nil {
			return err
		}
		switch c {
		case 't':
			d.i++
			*p = true
			return d.ident("rue")
		case 'f':
			d.i++
			*p = false
			return d.ident("alse")
		}
		return d.wrongType("a boolean")
	}
}

// Unsigned expects an integer within T; rustType is how errors name it (u8, usize, ...).
func Unsigned[T ~uint8 | ~uint16 | ~uint32 | ~uint64](p *T, rustType string) Value {
	return func(d *decoder) *Error {
		c, err := d.value()
		if err != nil {
			return err
		}
		if c != '-' && (c < '0' || c > '9') {
			return d.wrongType(rustType)
		}
		n, err := d.number()
		switch {
		case err != nil:
			return err
		case n.float:
			return d.errorHere("invalid type: " + n.String() + ", expected " + rustType)
		case n.negative || uint64(T(n.integer)) != n.integer:
			return d.errorHere("invalid value: " + n.String() + ", expected " + rustType)
		}
		*p = T(n.integer)
		return nil
	}
}

// Variant expects one of the named variants of a Rust enum, as a string or as {"variant": null}.
func Variant(p *string, variants ...string) Value {
	return func(d *decoder) *Error {
		c, err := d.value()
		if err != nil {
			return err
		}
		switch c {
		case '"':
			return d.variant(p, variants)
		case '{':
			return d.variantObject(p, variants)
		}
		return d.peekError("expected value")
	}
}

func (d *decoder) variant(p *string, variants []string) *Error {
	s, err := d.str()
	if err != nil {
		return err
	}
	if !slices.Contains(variants, s) {
		return d.errorHere("unknown variant `" + s + "`, expected " + oneOf(variants))
	}
	*p = s
	return nil
}

func (d *decoder) variantObject(p *string, variants []string) *Error {
	d.i++
	c, err := d.value()
	if err != nil {
		return err
	}
	if c != '"' {
		return d.wrongType("variant identifier")
	}
	if err := d.variant(p, variants); err != nil {
		return err
	}
	if err := d.colon(); err != nil {
		return err
	}
	if c, err = d.value(); err != nil {
		return err
	}
	if c != 'n' {
		return d.wrongType("unit")
	}
	d.i++
	if err := d.ident("ull"); err != nil {
		return err
	}
	switch c, ok := d.space(); {
	case !ok:
		return d.errorHere("EOF while parsing an object")
	case c != '}':
		return d.errorHere("expected value")
	}
	d.i++
	return nil
}

// Option expects null, which leaves *p nil, or what inner expects.
func Option[T any](p **T, inner func(*T) Value) Value {
	return func(d *decoder) *Error {
		if c, ok := d.space(); ok && c == 'n' {
			d.i++
			*p = nil
			return d.ident("ull")
		}
		v := new(T)
		if err := inner(v)(d); err != nil {
			return err
		}
		*p = v
		return nil
	}
}

// Seq expects an array of what inner expects.
func Seq[T any](p *[]T, inner func(*T) Value) Value {
	return func(d *decoder) *Error {
		c, err := d.value()
		if err != nil {
			return err
		}
		if c != '[' {
			return d.wrongType("a sequence")
		}
		*p = []T{}
		return d.fix(d.array(func() *Error {
			first := true
			for {
				more, err := d.nextElement(&first)
				if err != nil || !more {
					return err
				}
				var v T
				if err := inner(&v)(d); err != nil {
					return err
				}
				*p = append(*p, v)
			}
		}))
	}
}

// array runs body between the brackets, and looks for the closing one even after an error, as serde_json does.
func (d *decoder) array(body func() *Error) *Error {
	if err := d.enter(); err != nil {
		return err
	}
	d.i++
	err := body()
	d.leave()
	end := d.endArray()
	if err != nil {
		return err
	}
	return end
}

func (d *decoder) endArray() *Error {
	switch c, ok := d.space(); {
	case !ok:
		return d.peekError("EOF while parsing a list")
	case c == ']':
		d.i++
		return nil
	case c == ',':
		d.i++
		if c, ok := d.space(); ok && c == ']' {
			return d.peekError("trailing comma")
		}
	}
	return d.peekError("trailing characters")
}

func (d *decoder) nextElement(first *bool) (bool, *Error) {
	c, ok := d.space()
	switch {
	case !ok:
		return false, d.peekError("EOF while parsing a list")
	case c == ']':
		return false, nil
	case *first:
		*first = false
		return true, nil
	case c != ',':
		return false, d.peekError("expected `,` or `]`")
	}
	d.i++
	switch c, ok = d.space(); {
	case !ok:
		return false, d.peekError("EOF while parsing a value")
	case c == ']':
		return false, d.peekError("trailing comma")
	}
	return true, nil
}

// Any accepts every JSON value and drops it.
func Any() Value { return (*decoder).skip }

func (d *decoder) skip() *Error {
	c, err := d.value()
	if err != nil {
		return err
	}
	switch c {
	case '[':
		return d.array(func() *Error {
			first := true
			for {
				more, err := d.nextElement(&first)
				if err != nil || !more {
					return err
				}
				if err := d.skip(); err != nil {
					return err
				}
			}
		})
	case '{':
		return d.object(func() *Error {
			first := true
			for {
				_, more, err := d.nextKey(&first)
				if err != nil || !more {
					return err
				}
				if err := d.colon(); err != nil {
					return err
				}
				if err := d.skip(); err != nil {
					return err
				}
			}
		})
	}
	_, err = d.unexpected()
	return err
}

// oneOf lists names as serde does.
func oneOf(names []string) string {
	quoted := make([]string, len(names))
	for k, n := range names {
		quoted[k] = "`" + n + "`"
	}
	switch len(quoted) {
	case 0:
		return "nothing"
	case 1:
		return quoted[0]
	case 2:
		return quoted[0] + " or " + quoted[1]
	}
	return fmt.Sprintf("one of %s", strings.Join(quoted, ", "))
}

// Package serde decodes JSON with the rules and, word for word, the errors of Rust's serde_json and its derived
// structs: Firecracker puts these errors into its answers, and clients read them.
//
// A [Value] says what is expected and where it goes; [Unmarshal] may be called at any time, from any goroutine, as long as
// the values' targets are not shared. Input nests at most [maxDepth] deep.
package serde

import (
	"fmt"
	"strconv"
	"strings"
)

// maxDepth is serde_json's own recursion limit.
const maxDepth = 128

// Error is a fault of the input. Line and Column count as serde_json counts them (columns in bytes); Line is 0 when the
// fault has no place.
type Error struct {
	Msg          string
	Line, Column int
}

func (e *Error) Error() string {
	if e.Line == 0 {
		return e.Msg
	}
	return fmt.Sprintf("%s at line %d column %d", e.Msg, e.Line, e.Column)
}

// Value reads one JSON value into the target it was made with.
type Value func(d *decoder) *Error

// Unmarshal decodes data, which must be one JSON value with nothing but white space after it. The error is an [*Error].
func Unmarshal(data []byte, v Value) error {
	d := &decoder{in: data, depth: maxDepth}
	if err := v(d); err != nil {
		return err
	}
	if _, ok := d.space(); ok {
		return d.peekError("trailing characters")
	}
	return nil
}

type decoder struct {
	in    []byte
	i     int // index of the next byte
	depth int
}

// place turns an index into serde_json's line and column.
func (d *decoder) place(msg string, at int) *Error {
	before := d.in[:at]
	line := 1 + strings.Count(string(before), "\n")
	column := at - (strings.LastIndexByte(string(before), '\n') + 1)
	return &Error{Msg: msg, Line: line, Column: column}
}

// errorHere is a fault of what has been consumed.
func (d *decoder) errorHere(msg string) *Error { return d.place(msg, d.i) }

// peekError is a fault of the next byte.
func (d *decoder) peekError(msg string) *Error { return d.place(msg, min(len(d.in), d.i+1)) }

// fix gives err the current place when it has none.
func (d *decoder) fix(err *Error) *Error {
	if err == nil || err.Line != 0 {
		return err
	}
	return d.errorHere(err.Msg)
}

// space skips white space and returns the next byte without consuming it.
func (d *decoder) space() (byte, bool) {
	for d.i < len(d.in) {
		switch d.in[d.i] {
		case ' ', '\n', '\t', '\r':
			d.i++
		default:
			return d.in[d.i], true
		}
	}
	return 0, false
}

func (d *decoder) peek() byte {
	if d.i < len(d.in) {
		return d.in[d.i]
	}
	return 0
}

// value skips white space before a value.
func (d *decoder) value() (byte, *Error) {
	c, ok := d.space()
	if !ok {
		return 0, d.peekError("EOF while parsing a value")
	}
	return c, nil
}

// ident consumes the rest of null, true or false.
func (d *decoder) ident(rest string) *Error {
	for k := range len(rest) {
		if d.i >= len(d.in) {
			return d.errorHere("EOF while parsing a value")
		}
		c := d.in[d.i]
		d.i++
		if c != rest[k] {
			return d.errorHere("expected ident")
		}
	}
	return nil
}

// enter and leave bound the nesting of objects and arrays.
func (d *decoder) enter() *Error {
	d.depth--
	if d.depth == 0 {
		return d.peekError("recursion limit exceeded")
	}
	return nil
}

func (d *decoder) leave() { d.depth++ }

// wrongType reads over the value that came instead of what was expected and says so.
func (d *decoder) wrongType(expected string) *Error {
	unexpected, err := d.unexpected()
	if err != nil {
		return err
	}
	return d.errorHere("invalid type: " + unexpected + ", expected " + expected)
}

func (d *decoder) unexpected() (string, *Error) {
	switch c := d.peek(); {
	case c == 'n':
		d.i++
		return "null", d.ident("ull")
	case c == 't':
		d.i++
		return "boolean `true`", d.ident("rue")
	case c == 'f':
		d.i++
		return "boolean `false`", d.ident("alse")
	case c == '-' || c >= '0' && c <= '9':
		n, err := d.number()
		return n.String(), err
	case c == '"':
		s, err := d.str()
		return "string " + debugString(s), err
	case c == '[':
		return "sequence", nil
	case c == '{':
		return "map", nil
	}
	return "", d.peekError("expected value")
}

// number is a JSON number as serde_json sees it: an integer that fits 64 bits, or a float.
type number struct {
	negative bool
	integer  uint64 // magnitude, when !float
	float    bool
	f        float64
}

func (n number) String() string {
	if n.float {
		return "floating point `" + formatFloat(n.f) + "`"
	}
	s := strconv.FormatUint(n.integer, 10)
	if n.negative {
		s = "-" + s
	}
	return "integer `" + s + "`"
}

// formatFloat prints as serde_json does: plain within 1e-5..1e16, else scientific.
func formatFloat(f float64) string {
	abs := max(f, -f)
	if abs != 0 && (abs < 1e-5 || abs >= 1e16) {
		s := strconv.FormatFloat(f, 'e', -1, 64)
		mantissa, exponent, _ := strings.Cut(s, "e")
		sign, digits := exponent[:1], strings.TrimLeft(exponent[1:], "0")
		return mantissa + "e" + sign + digits
	}
	s := strconv.FormatFloat(f, 'f', -1, 64)
	if !strings.Contains(s, ".") {
		s += ".0"
	}
	return s
}

// number reads a number; the next byte is known to be a digit or a minus sign.
func (d *decoder) number() (number, *Error) {
	start := d.i
	n := number{}
	if d.peek() == '-' {
		n.negative = true
		d.i++
	}
	if d.i >= len(d.in) {
		return n, d.errorHere("EOF while parsing a value")
	}
	c := d.in[d.i]
	d.i++
	switch {
	case c == '0':
		if p := d.peek(); p >= '0' && p <= '9' {
			return n, d.peekError("invalid number")
		}
	case c >= '1' && c <= '9':
		d.digits()
	default:
		return n, d.errorHere("invalid number")
	}
	whole := d.in[start:d.i]
	if d.peek() == '.' {
		n.float = true
		d.i++
		if err := d.someDigits(); err != nil {
			return n, err
		}
	}
	if p := d.peek(); p == 'e' || p == 'E' {
		n.float = true
		d.i++
		if p := d.peek(); p == '+' || p == '-' {
			d.i++
		}
		if err := d.exponent(); err != nil {
			return n, err
		}
	}
	if !n.float {
		return d.integer(n, strings.TrimPrefix(string(whole), "-"))
	}
	f, err := strconv.ParseFloat(string(d.in[start:d.i]), 64)
	if err != nil {
		return n, d.errorHere("number out of range")
	}
	n.f = f
	return n, nil
}

func (d *decoder) integer(n number, digits string) (number, *Error) {
	u, err := strconv.ParseUint(digits, 10, 64)
	if err == nil && (!n.negative || u != 0 && u <= 1<<63) {
		n.integer = u
		return n, nil
	}
	n.float = true
	f, err := strconv.ParseFloat(digits, 64)
	if err != nil {
		return n, d.errorHere("number out of range")
	}
	if n.f = f; n.negative {
		n.f = -f
	}
	return n, nil
}

func (d *decoder) digits() {
	for c := d.peek(); c >= '0' && c <= '9'; c = d.peek() {
		d.i++
	}
}

// someDigits wants at least one digit after a decimal point.
func (d *decoder) someDigits() *Error {
	if c := d.peek(); c < '0' || c > '9' {
		if d.i >= len(d.in) {
			return d.peekError("EOF while parsing a value")
		}
		return d.peekError("invalid number")
	}
	d.digits()
	return nil
}

func (d *decoder) exponent() *Error {
	if d.i >= len(d.in) {
		return d.errorHere("EOF while parsing a value")
	}
	c := d.in[d.i]
	d.i++
	if c < '0' || c > '9' {
		return d.errorHere("invalid number")
	}
	d.digits()
	return nil
}

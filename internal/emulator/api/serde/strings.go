package serde

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// str reads a string; the next byte is known to be its opening quote.
func (d *decoder) str() (string, *Error) {
	d.i++
	var b strings.Builder
	start := d.i
	for {
		for d.i < len(d.in) && d.in[d.i] != '"' && d.in[d.i] != '\\' && d.in[d.i] >= 0x20 {
			d.i++
		}
		if d.i >= len(d.in) {
			return "", d.errorHere("EOF while parsing a string")
		}
		b.Write(d.in[start:d.i])
		c := d.in[d.i]
		d.i++
		switch c {
		case '"':
			s := b.String()
			if !utf8.ValidString(s) {
				return "", d.errorHere("invalid unicode code point")
			}
			return s, nil
		case '\\':
			if err := d.escape(&b); err != nil {
				return "", err
			}
			start = d.i
		default:
			return "", d.errorHere(`control character (\u0000-\u001F) found while parsing a string`)
		}
	}
}

func (d *decoder) escape(b *strings.Builder) *Error {
	if d.i >= len(d.in) {
		return d.errorHere("EOF while parsing a string")
	}
	c := d.in[d.i]
	d.i++
	switch c {
	case '"', '\\', '/':
		b.WriteByte(c)
	case 'b':
		b.WriteByte('\b')
	case 'f':
		b.WriteByte('\f')
	case 'n':
		b.WriteByte('\n')
	case 'r':
		b.WriteByte('\r')
	case 't':
		b.WriteByte('\t')
	case 'u':
		r, err := d.unicode()
		if err != nil {
			return err
		}
		b.WriteRune(r)
	default:
		return d.errorHere("invalid escape")
	}
	return nil
}

func (d *decoder) unicode() (rune, *Error) {
	first, err := d.hex4()
	if err != nil {
		return 0, err
	}
	switch {
	case first >= 0xDC00 && first <= 0xDFFF:
		return 0, d.errorHere("lone leading surrogate in hex escape")
	case first < 0xD800 || first > 0xDBFF:
		return first, nil
	}
	for _, want := range []byte{'\\', 'u'} {
		if d.i >= len(d.in) {
			return 0, d.errorHere("EOF while parsing a string")
		}
		if d.i++; d.in[d.i-1] != want {
			return 0, d.errorHere("unexpected end of hex escape")
		}
	}
	second, err := d.hex4()
	if err != nil {
		return 0, err
	}
	r := utf16.DecodeRune(first, second)
	if r == utf8.RuneError {
		return 0, d.errorHere("lone leading surrogate in hex escape")
	}
	return r, nil
}

func (d *decoder) hex4() (rune, *Error) {
	if len(d.in)-d.i < 4 {
		d.i = len(d.in)
		return 0, d.errorHere("EOF while parsing a string")
	}
	var r rune
	for _, c := range d.in[d.i : d.i+4] {
		k := strings.IndexByte("0123456789abcdef", c|0x20)
		if k < 0 || c < '0' {
			d.i += 4
			return 0, d.errorHere("invalid escape")
		}
		r = r<<4 | rune(k)
	}
	d.i += 4
	return r, nil
}

// debugString quotes as Rust's {:?} does.
func debugString(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch r {
		case '"', '\\':
			b.WriteRune('\\')
			b.WriteRune(r)
		case '\n':
			b.WriteString(`\n`)
		case '\r':
			b.WriteString(`\r`)
		case '\t':
			b.WriteString(`\t`)
		case 0:
			b.WriteString(`\0`)
		default:
			if unicode.IsPrint(r) {
				b.WriteRune(r)
			} else {
				fmt.Fprintf(&b, `\u{%x}`, r)
			}
		}
	}
	b.WriteByte('"')
	return b.String()
}

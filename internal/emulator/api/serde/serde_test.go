package serde

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"unicode/utf8"
)

type sample struct {
	name  string
	count uint8
	kind  string
	list  []string
	inner *inner
}

type inner struct{ on bool }

func (i *inner) value() Value { return Lenient("Inner", Required("on", Bool(&i.on))) }

func (s *sample) value() Value {
	return Struct("Sample",
		Required("name", String(&s.name)),
		Default("count", Unsigned(&s.count, "u8")),
		Default("kind", Variant(&s.kind, "A", "B", "C")),
		Default("list", Seq(&s.list, String)),
		Optional("inner", &s.inner, (*inner).value))
}

// The recordings of a real Firecracker in test/vmm hold most messages; these are the rest of the rules.
func TestErrorsHaveSerdesWordsAndPlaces(t *testing.T) {
	for text, want := range map[string]string{
		`{"name":"a"}`: "",
		`{"name":"a","inner":{"on":true,"extra":[1,{"a":null}]}}`: "",
		`{"name":"a","inner":null,"list":["x","y"],"kind":"B"}`:   "",
		`["a",1,"A",[],null]`:                                       "",
		`["a",1,"A",[]]`:                                            "invalid length 4, expected struct Sample with 5 elements at line 1 column 14",
		`["a",1,"A",[],null,3]`:                                     "trailing characters at line 1 column 20",
		`{"name":"a","list":["x",]}`:                                "trailing comma at line 1 column 25",
		`{"name":"a","list":["x" "y"]}`:                             "expected `,` or `]` at line 1 column 25",
		`{"name":"a","list":["x"`:                                   "EOF while parsing a list at line 1 column 23",
		`{"name":"a","list":[1]}`:                                   "invalid type: integer `1`, expected a string at line 1 column 21",
		`{"name":"a","inner":{"on":true,"extra":tru}}`:              "expected ident at line 1 column 43",
		`{"name":"a","inner":{"on":true,"extra":{"a" 1}}}`:          "expected `:` at line 1 column 45",
		`{"name":"a","inner":{}}`:                                   "missing field `on` at line 1 column 22",
		"{\n  \"name\": \"a\",\n  \"nam\": 1\n}":                    "unknown field `nam`, expected one of `name`, `count`, `kind`, `list`, `inner` at line 3 column 7",
		`{"name":"\ud800\u0041"}`:                                   "lone leading surrogate in hex escape at line 1 column 21",
		`{"name":"\u12"}`:                                           "invalid escape at line 1 column 15",
		`{"name":"\u12"`:                                            "EOF while parsing a string at line 1 column 14",
		`{"name":"\u12xz"}`:                                         "invalid escape at line 1 column 15",
		`{"name":"a","inner":{"on":true,"extra":1.}}`:               "invalid number at line 1 column 42",
		`{"name":"a","inner":{"on":true,"extra":1e}}`:               "invalid number at line 1 column 42",
		`{"name":"a","inner":{"on":true,"extra":0.5e+3,"b":-1e-2}}`: "",
	} {
		var s sample
		err := Unmarshal([]byte(text), s.value())
		got := ""
		if err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%s\n got %s\nwant %s", text, got, want)
		}
	}
}

func TestValuesArrive(t *testing.T) {
	s := sample{count: 7}
	text := `{"name":"a\n\"\u00e9\ud83d\ude00","kind":{"C":null},"list":["x"],"inner":{"on":true}}`
	if err := Unmarshal([]byte(text), s.value()); err != nil {
		t.Fatal(err)
	}
	if s.name != "a\n\"é😀" || s.count != 7 || s.kind != "C" || len(s.list) != 1 || !s.inner.on {
		t.Fatalf("got %+v", s)
	}
}

// FuzzUnmarshal holds the decoder to encoding/json's idea of what is JSON.
func FuzzUnmarshal(f *testing.F) {
	for _, seed := range []string{
		`{"name":"a","count":3,"kind":"A","list":["x"],"inner":{"on":false}}`, `["a",1,"A",[],null]`, `{"kind":{"A":null}}`,
		`"\ud83d\ude00\n"`, `[-0,1.5e-7,12345678901234567890,true,false,null]`, ` { } `, "[[[[]]]]", `{"a":{"b":[{}]}}`, `"\u00`, "-",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var s sample
		err := Unmarshal(data, s.value())
		if err == nil && !json.Valid(data) {
			t.Fatalf("accepted %q, which is no JSON", data)
		}
		if e, ok := errors.AsType[*Error](err); ok && (e.Line < 1 || e.Column < 0 || e.Column > len(data)) {
			t.Fatalf("%q: no such place: %v", data, e)
		}
		err = Unmarshal(data, Any())
		switch {
		case err == nil && !json.Valid(data):
			t.Fatalf("accepted %q as any JSON", data)
		// What serde_json refuses beyond JSON's grammar: bytes that are not UTF-8, lone surrogates, floats out of range,
		// deep nesting.
		case err != nil && json.Valid(data) && utf8.Valid(data) && !strings.Contains(string(data), `\u`) &&
			!strings.ContainsAny(string(data), "eE") && len(data) < maxDepth:
			t.Fatalf("refused %q: %v", data, err)
		}
	})
}

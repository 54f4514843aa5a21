package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestTroubleshootingQuotesTheProduct looks for what the headings quote in the product's source: for each part between "…".
func TestTroubleshootingQuotesTheProduct(t *testing.T) {
	var source strings.Builder
	for _, dir := range []string{"../../internal", "../../cmd"} {
		err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			b, err := os.ReadFile(path)
			source.Write(b)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	// A text that goes over several lines of source is one.
	text := regexp.MustCompile(`" \+\s*"`).ReplaceAllString(source.String(), "")
	text = strings.ReplaceAll(text, `\"`, `"`)
	doc, err := os.ReadFile("../../docs/troubleshooting.md")
	if err != nil {
		t.Fatal(err)
	}
	quotes := regexp.MustCompile("(?m)^### `([^`]+)`").FindAllStringSubmatch(string(doc), -1)
	if len(quotes) < 10 {
		t.Fatalf("only %d headings quote something", len(quotes))
	}
	// Not the product's: Linux's, and crun's.
	foreign := regexp.MustCompile(`^(No space left on device|exec: ".*)$`)
	for _, q := range quotes {
		if foreign.MatchString(q[1]) {
			continue
		}
		for part := range strings.SplitSeq(q[1], "…") {
			part = strings.Trim(part, " :;,()")
			if !strings.Contains(text, part) {
				t.Errorf("%q, quoted in %q, is nowhere in the product", part, q[1])
			}
		}
	}
}

package runtimetools

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/xeipuuv/gojsonschema"
)

// matches compares a JSON text with a schema of the runtime specification's.
func matches(t *testing.T, schema string, text []byte) {
	t.Helper()
	path, err := filepath.Abs(filepath.Join(env(t, "RUNCVM_TEST_SCHEMA"), schema))
	if err != nil {
		t.Fatal(err)
	}
	result, err := gojsonschema.Validate(gojsonschema.NewReferenceLoader("file://"+path), gojsonschema.NewBytesLoader(text))
	if err != nil {
		t.Fatalf("%s: %v\n%s", schema, err, text)
	}
	for _, e := range result.Errors() {
		t.Errorf("%s: %v", schema, e)
	}
	if !result.Valid() {
		t.Logf("%s", text)
	}
}

// ask runs the runtime and returns what it prints.
func ask(t *testing.T, rt, dir string, args ...string) []byte {
	t.Helper()
	var stderr strings.Builder
	cmd := exec.Command(rt, args...)
	cmd.Dir, cmd.Stderr = dir, &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%q: %v\n%s", args, err, stderr.String())
	}
	return out
}

func TestWhatIsPrintedMatchesTheSchemas(t *testing.T) {
	rt := runtime(t)
	dir := t.TempDir()
	matches(t, "features-schema.json", ask(t, rt, dir, "features"))

	ask(t, rt, dir, "spec")
	config, err := os.ReadFile(filepath.Join(dir, "config.json"))
	if err != nil {
		t.Fatal(err)
	}
	matches(t, "config-schema.json", config)

	c := create(t, rt, "schema", func(s *specs.Spec) { s.Annotations = map[string]string{"org.example": "x"} })
	matches(t, "state-schema.json", ask(t, rt, c.dir, "state", c.id))
	c.do("start")
	matches(t, "state-schema.json", ask(t, rt, c.dir, "state", c.id))
	c.do("kill", "KILL")
	c.awaitStopped()
	matches(t, "state-schema.json", ask(t, rt, c.dir, "state", c.id))
}

package runtimetools

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

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

	var spec map[string]any
	d := json.NewDecoder(bytes.NewReader(config))
	d.UseNumber() // some are larger than a float64 holds
	if err := d.Decode(&spec); err != nil {
		t.Fatal(err)
	}
	spec["process"].(map[string]any)["terminal"] = false
	spec["annotations"] = map[string]any{"org.example": "x"}
	if config, err = json.Marshal(spec); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "config.json"), config, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("sh", "-c", "mkdir -p "+dir+"/rootfs && tar -xf "+module(t)+"/rootfs-amd64.tar.gz -C "+dir+"/rootfs").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	create := exec.Command(rt, "create", "--bundle", dir, "schema")
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	create.Stdout, create.Stderr = log, log
	if err := create.Run(); err != nil {
		text, _ := os.ReadFile(log.Name())
		t.Fatalf("create: %v\n%s", err, text)
	}
	defer ask(t, rt, dir, "delete", "--force", "schema")
	matches(t, "state-schema.json", ask(t, rt, dir, "state", "schema"))
}

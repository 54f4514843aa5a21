package vmm

import (
	"bytes"
	"encoding/json"
	"os"
)

// WriteRecording writes a recording, of this package's table or of another's, so that git shows what changes in it.
func WriteRecording(path string, recording any) error {
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", " ")
	if err := enc.Encode(recording); err != nil {
		return err
	}
	return os.WriteFile(path, out.Bytes(), 0o644)
}

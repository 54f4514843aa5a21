// Package differences is the table of what is not under RunCVM as it is under runc, for Docker and Podman. The engines' suite holds
// RunCVM to it, and the documentation shows it.
package differences

import (
	_ "embed"
	"encoding/json"
	"fmt"
)

// Difference is one thing that is not under RunCVM as it is under runc.
type Difference struct {
	// Case and Step tell where, What which of "exit code", "stdout" and "stderr".
	Case string `json:"case"`
	Step string `json:"step"`
	What string `json:"what"`
	// Engines are those where it shows, separated by |; all where it is empty. In it and in RunCVM * stands for anything.
	Engines string `json:"engines,omitempty"`
	// RunCVM is what is there in place of what the step wants.
	RunCVM string `json:"runcvm"`
	// Text says it to people, and Reason why.
	Text   string `json:"text"`
	Reason string `json:"reason"`
}

//go:embed differences.json
var file []byte

// Read returns the table. A row without a text or a reason is an error.
func Read() ([]Difference, error) {
	var all []Difference
	if err := json.Unmarshal(file, &all); err != nil {
		return nil, fmt.Errorf("differences.json: %w", err)
	}
	for _, d := range all {
		if d.Text == "" || d.Reason == "" {
			return nil, fmt.Errorf("differences.json: %s of %s, %s: it has no text, or no reason", d.What, d.Case, d.Step)
		}
	}
	return all, nil
}

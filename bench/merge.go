package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
)

// readReport reads a file of results; one that is not there has none.
func readReport(path string) (r Report, err error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return r, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &r)
	}
	if err != nil {
		return r, fmt.Errorf("read earlier results: %w", err)
	}
	return r, nil
}

// merge puts the results of a run of some rows in the places that they have among earlier ones, or behind these. Each then says when it was
// measured. What another machine has measured cannot stand beside them.
func (r Report) merge(earlier Report) (Report, error) {
	if len(earlier.Results) == 0 {
		return r, nil
	}
	if r.Machine != earlier.Machine {
		return r, fmt.Errorf("the earlier results are of another machine, %+v, than this, %+v: measure all rows",
			earlier.Machine, r.Machine)
	}
	all := slices.Clone(earlier.Results)
	for _, res := range r.Results {
		res.Started = &r.Started
		at := slices.IndexFunc(all, func(old Result) bool { return old.Name == res.Name })
		if at < 0 {
			all = append(all, res)
		} else {
			all[at] = res
		}
	}
	earlier.Results = all
	return earlier, nil
}

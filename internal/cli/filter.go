package cli

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// filters are the given --filter values, and what each known one means for a row of type T. As in Docker several values of
// one filter are alternatives, and different filters must all hold; "label" values must all hold, too.
type filters[T any] map[string]func(value string) (match func(T) bool, err error)

// compile turns --filter NAME=VALUE flags into one condition. All faults are in one error.
func (f filters[T]) compile(given []string) (func(T) bool, error) {
	alternatives := map[string][]func(T) bool{}
	var errs []error
	for _, g := range given {
		name, value, ok := strings.Cut(g, "=")
		name = strings.ToLower(strings.TrimSpace(name))
		make, known := f[name]
		switch {
		case !ok:
			errs = append(errs, fmt.Errorf("--filter %q is not NAME=VALUE", g))
			continue
		case !known:
			errs = append(errs, fmt.Errorf("--filter %s: there is no such filter, only %s", name,
				strings.Join(slices.Sorted(maps.Keys(f)), ", ")))
			continue
		}
		match, err := make(strings.TrimSpace(value))
		if err != nil {
			errs = append(errs, fmt.Errorf("--filter %s: %w", name, err))
			continue
		}
		if name == "label" { // its values have to hold all
			name = g
		}
		alternatives[name] = append(alternatives[name], match)
	}
	return func(row T) bool {
		for _, any := range alternatives {
			if !slices.ContainsFunc(any, func(match func(T) bool) bool { return match(row) }) {
				return false
			}
		}
		return true
	}, errors.Join(errs...)
}

// has says whether a filter of this name is among those given.
func hasFilter(given []string, name string) bool {
	return slices.ContainsFunc(given, func(g string) bool {
		n, _, _ := strings.Cut(g, "=")
		return strings.EqualFold(strings.TrimSpace(n), name)
	})
}

// labelFilter is what --filter label=NAME or label=NAME=VALUE means for these labels.
func labelFilter[T any](labels func(T) map[string]string) func(string) (func(T) bool, error) {
	return func(value string) (func(T) bool, error) {
		name, want, exact := strings.Cut(value, "=")
		return func(row T) bool {
			have, ok := labels(row)[name]
			return ok && (!exact || have == want)
		}, nil
	}
}

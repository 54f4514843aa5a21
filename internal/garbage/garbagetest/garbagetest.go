// Package garbagetest collects garbage while a test uses the store that has it. Its function is legal at any time.
package garbagetest

import (
	"sync"
	"testing"

	"github.com/runcvm/runcvm/internal/garbage"
)

// Collect removes what find finds, over and over, until stop, which waits for the end of it. An error fails the test.
func Collect(t testing.TB, find func() ([]garbage.Item, error)) (stop func()) {
	ended := make(chan struct{})
	var collector sync.WaitGroup
	collector.Go(func() {
		for {
			select {
			case <-ended:
				return
			default:
			}
			items, err := find()
			if err != nil {
				t.Error(err)
			}
			for _, i := range items {
				if _, err := i.Remove(t.Context()); err != nil {
					t.Error(err)
				}
			}
		}
	})
	return func() {
		close(ended)
		collector.Wait()
	}
}

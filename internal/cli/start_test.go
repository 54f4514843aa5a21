package cli

import "testing"

// BenchmarkTree is a part of every start.
func BenchmarkTree(b *testing.B) {
	for b.Loop() {
		newApp().root()
	}
}

package callers

import "testing"

func TestCallersAreCounted(t *testing.T) {
	c := New()
	closed := func() bool {
		select {
		case <-c.None():
			return true
		default:
			return false
		}
	}
	for i, step := range []struct {
		n    int
		want bool
	}{{0, true}, {1, false}, {1, false}, {-1, false}, {-1, true}, {1, false}, {-1, true}} {
		if step.n != 0 {
			c.add(step.n)
		}
		if closed() != step.want {
			t.Fatalf("step %d: None is %v", i, !step.want)
		}
	}
}

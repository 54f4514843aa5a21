package guest

import "testing"

func TestTheAgentsPartIsFoundInTheKernelsFiles(t *testing.T) {
	if n := memoryField([]byte("MemTotal:         137648 kB\nMemFree:           99 kB\nMemAvailable:     102400 kB\nBuffers: 0 kB\n"), "MemAvailable:"); n != 100<<20 {
		t.Errorf("available memory %d", n)
	}
	for _, text := range []string{"", "MemAvailable:\n", "MemAvailable: many kB\n", "MemFree: 5 kB\n"} {
		if n := memoryField([]byte(text), "MemAvailable:"); n != 0 {
			t.Errorf("%q gives %d", text, n)
		}
	}
	for text, want := range map[string]int64{"1074": 537, "1": 0, "": 0, "x": 0} {
		if n := containerTasks(text); n != want {
			t.Errorf("threads-max %q leaves %d, want %d", text, n, want)
		}
	}
}

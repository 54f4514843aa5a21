package ocicli

import (
	"os"
	"strconv"
	"strings"
	"testing"
)

func TestFilesOfTheHostAreRefusedByName(t *testing.T) {
	own := strconv.Itoa(os.Getpid())
	for name, c := range map[string]struct {
		preserve int
		fds, pid string
		want     string
	}{
		"none":                          {0, "", "", ""},
		"the flag":                      {2, "", "", "--preserve-fds 2"},
		"a socket of the unit":          {0, "1", own, "LISTEN_FDS=1"},
		"none of the unit's":            {0, "0", own, ""},
		"a socket for another process":  {0, "1", "1", ""},
		"a socket for whoever inherits": {0, "1", "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("LISTEN_FDS", c.fds)
			t.Setenv("LISTEN_PID", c.pid)
			err := refuseFiles(c.preserve)
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("%v, want %q", err, c.want)
			}
		})
	}
}

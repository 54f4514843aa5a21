package guest

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/runcvm/runcvm/internal/guestapi"
)

func TestAListOfProcessesFitsIntoAMessageWhateverTheirArguments(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"stat":    "7 (" + strings.Repeat("x", 15) + ") S 1 7 7 0 -1 4194560 1 0 0 0 1 1 0 0 20 0 1 0 100 1000000 100 18446744073709551615\n",
		"status":  "Name:\tx\nUid:\t4294967294\t4294967294\t4294967294\t4294967294\nNSpid:\t7\t7\nVmRSS:\t1 kB\n",
		"cmdline": strings.Repeat("\x00", 64<<10),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	p, _, err := readProcess(dir, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	p.User = strings.Repeat("u", 32)
	list := &guestapi.ListProcessesResponse{}
	for range maxProcesses {
		list.Processes = append(list.Processes, p)
	}
	if size := proto.Size(list); size > 4<<20-64<<10 {
		t.Errorf("a list of %d has %d bytes, more than a message", maxProcesses, size)
	}
	if len(p.Args) != maxArgCount {
		t.Errorf("%d arguments are shown", len(p.Args))
	}
}

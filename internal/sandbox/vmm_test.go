package sandbox

import (
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/runcvm/runcvm/internal/timeline"
	"github.com/runcvm/runcvm/test/hostile"
	"github.com/runcvm/runcvm/test/serve"
)

// The test's own program stands in for a VMM, with an agent of package hostile behind its vsock: what a guest may do wrong
// is tried in milliseconds, by the client, the protocols and the processes that are there in earnest. The e2e suites have the
// same agents in guests.
func TestMain(m *testing.M) {
	if len(os.Args) > 4 && os.Args[1] == "--api-sock" {
		// Without what os.Exit does under the race detector: it sleeps for a second.
		syscall.Exit(vmm(os.Args[2], strings.TrimLeft(os.Args[4], "0123456789-")))
	}
	os.Exit(m.Run())
}

// Modes of the VMM itself; the others are agents of package hostile.
const (
	vmmDies     = "vmm-dies"
	vmmEnds     = "vmm-ends"
	vmmRefuses  = "vmm-refuses"
	vmmIsSilent = "vmm-is-silent"
)

// vmm serves the API's socket until it is killed.
func vmm(socket, mode string) int {
	fmt.Println("console of", mode)
	fmt.Fprintln(os.Stderr, "log of", mode)
	exit := make(chan int, 1)
	l, err := net.Listen("unix", socket)
	if err != nil {
		panic(err)
	}
	go func() {
		panic(http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			switch {
			case mode == vmmIsSilent:
				<-r.Context().Done()
			case r.Method == http.MethodGet:
				_, _ = io.WriteString(w, `{"firecracker_version":"1.16.1"}`)
			case r.URL.Path == "/vsock":
				vsock(mode)
				w.WriteHeader(http.StatusNoContent)
			case r.URL.Path != "/actions":
				w.WriteHeader(http.StatusNoContent)
			case mode == vmmDies:
				exit <- 3
			case mode == vmmEnds:
				exit <- 0
			case mode == vmmRefuses:
				w.WriteHeader(http.StatusBadRequest)
				_, _ = io.WriteString(w, `{"fault_message":"no such kernel"}`)
			default:
				w.WriteHeader(http.StatusNoContent)
			}
		})))
	}()
	return <-exit
}

func vsock(mode string) {
	l, err := net.Listen("unix", "vsock.sock")
	if err != nil {
		panic(err)
	}
	agent, ok := hostile.Modes[mode]
	if !ok {
		agent = hostile.Modes["closing"]
	}
	go serve.Connections(l, agent.Connect)
}

const (
	// patience is for what must not take long, on a machine that has other things to do.
	patience = 20 * time.Second
	// impatience is for what never comes.
	impatience = 300 * time.Millisecond
)

// launchConfig is a sandbox's in the working directory.
func launchConfig(t *testing.T, program string) Config {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	return Config{
		ID: "0", VMM: program, Dir: dir, Vsock: "vsock.sock",
		ConsoleLog: filepath.Join(dir, "console"), VMMLog: filepath.Join(dir, "log"), BootTimeout: patience,
		Log: slog.New(slog.DiscardHandler), Timeline: timeline.New(time.Now()),
	}
}

// launch runs a VMM of this mode.
func launch(t *testing.T, mode string) *Sandbox {
	t.Helper()
	t.Chdir(t.TempDir())
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cfg := launchConfig(t, self)
	cfg.ID = "0-" + mode
	s, err := Launch(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	s.drainTimeout = 200 * time.Millisecond
	t.Cleanup(s.Kill)
	return s
}

// created boots such a guest and creates its container.
func created(t *testing.T, mode string) (*Sandbox, *Container) {
	t.Helper()
	s := launch(t, mode)
	if err := s.Boot(t.Context(), BootFiles{}); err != nil {
		t.Fatal(err)
	}
	c, err := s.Create(t.Context(), "c", Disks{})
	if err != nil {
		t.Fatal(err)
	}
	return s, c
}

// running starts its process.
func running(t *testing.T, mode string, streams Streams) (*Sandbox, *Container) {
	t.Helper()
	s, c := created(t, mode)
	if err := c.Start(t.Context(), streams); err != nil {
		t.Fatal(err)
	}
	return s, c
}

// Command guestless stands in for a VMM without running a guest: what answers on the vsock is an agent of package hostile in this
// process, which the parameter hostile=MODE of the kernel's command line names. What a monitor does over many boots is tried with
// it in milliseconds.
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"

	"github.com/runcvm/runcvm/test/hostile"
	"github.com/runcvm/runcvm/test/serve"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "guestless:", err)
		os.Exit(1)
	}
}

// vmm is what was configured.
type vmm struct {
	mode  hostile.Mode
	vsock string
}

func run() error {
	for i, arg := range os.Args {
		if arg == "--api-sock" && i+1 < len(os.Args) {
			l, err := net.Listen("unix", os.Args[i+1])
			if err != nil {
				return err
			}
			return http.Serve(l, &vmm{})
		}
	}
	return fmt.Errorf("no --api-sock in %q", os.Args)
}

func (v *vmm) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodGet {
		_, _ = io.WriteString(w, `{"firecracker_version":"1.16.1"}`)
		return
	}
	var body struct {
		BootArgs   string `json:"boot_args"`
		UDSPath    string `json:"uds_path"`
		ActionType string `json:"action_type"`
	}
	err := json.NewDecoder(r.Body).Decode(&body)
	switch {
	case err != nil:
	case r.URL.Path == "/boot-source":
		err = v.choose(body.BootArgs)
	case r.URL.Path == "/vsock":
		v.vsock = body.UDSPath
	case body.ActionType == "InstanceStart":
		err = v.listen()
	}
	if err != nil {
		w.WriteHeader(http.StatusBadRequest)
		_ = json.NewEncoder(w).Encode(map[string]string{"fault_message": err.Error()})
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func (v *vmm) choose(commandLine string) error {
	for word := range strings.FieldsSeq(commandLine) {
		if name, ok := strings.CutPrefix(word, "hostile="); ok {
			if v.mode, ok = hostile.Modes[name]; ok {
				return nil
			}
		}
	}
	return fmt.Errorf("%q names no mode of package hostile", commandLine)
}

func (v *vmm) listen() error {
	l, err := net.Listen("unix", v.vsock)
	if err != nil {
		return err
	}
	go serve.Connections(l, v.mode.Connect)
	return nil
}

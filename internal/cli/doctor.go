package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"

	"github.com/spf13/cobra"

	"github.com/runcvm/runcvm/internal/doctor"
)

func (a *app) doctorCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Look whether containers can run here, and say what to do where they cannot",
		Long: "Look at everything that containers need here: KVM, by running a short guest on it; Firecracker or its emulator; the\n" +
			"guest's kernel and agent; programs, disk space, devices, and the configuration of Docker, Podman and containerd. Each\n" +
			"is found, missing, found with a warning, or not there but optional, with what to do. The exit code is 0 when containers\n" +
			"can run, 1 when something that they need is missing. What they need depends on the settings: with vmm.emulation =\n" +
			"\"auto\" guests are emulated where Firecracker or KVM is missing, which is no security boundary.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			r := doctor.Examine(cmd.Context(), doctor.Options{Config: a.cfg, Runtime: servesEngines(cmd.Context())})
			if !r.OK {
				a.code = 1
			}
			if asJSON {
				enc := json.NewEncoder(a.stdout)
				enc.SetEscapeHTML(false)
				enc.SetIndent("", "  ")
				return enc.Encode(r)
			}
			return printReport(a.stdout, r)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the report as JSON")
	return cmd
}

// servesEngines says whether this program is an OCI runtime, by asking it what it can do as an engine would.
func servesEngines(ctx context.Context) bool {
	self, err := os.Executable()
	return err == nil && exec.CommandContext(ctx, self, "features").Run() == nil
}

func printReport(w io.Writer, r doctor.Report) error {
	name := 0
	for _, c := range r.Checks {
		name = max(name, len(c.Name))
	}
	for _, c := range r.Checks {
		status := string(c.Status)
		if c.Status == doctor.Missing && !c.Needed {
			status = "optional"
		}
		if _, err := fmt.Fprintf(w, "%-8s  %-*s  %s\n", status, name, c.Name, c.Detail); err != nil {
			return err
		}
		if c.Remedy != "" {
			fmt.Fprintf(w, "%-8s  %-*s  -> %s\n", "", name, "", c.Remedy)
		}
	}
	verdict := "Containers can run here."
	switch {
	case !r.OK:
		verdict = "Containers cannot run here: what is missing above is needed."
	case r.Emulated:
		verdict = "Containers can run here, emulated: that is no security boundary."
	}
	_, err := fmt.Fprintf(w, "\n%s\n", verdict)
	return err
}

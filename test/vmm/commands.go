package vmm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

// Command is one run of the VMM's program to its end.
type Command struct {
	Name   string
	Args   []string // {{dir}} is the run's directory
	Config string   // when not empty, put into {{dir}}/config.json
	Stdin  string
	Boots  bool
}

// Commands is the table of command lines; what is recorded is how the program ends.
func Commands() []Command {
	const (
		machine = `{"boot-source":{"kernel_image_path":"{{dir}}/vmlinux","boot_args":"reboot=k"},"drives":[]`
		noAPI   = "--no-api"
		config  = "--config-file"
		file    = "{{dir}}/config.json"
	)
	fromFile := []string{noAPI, config, file}
	return []Command{
		{Name: "version", Args: []string{"--version"}},
		{Name: "version with faulty flags", Args: []string{"--foo", "--version"}},
		{Name: "help", Args: []string{"--help"}},
		{Name: "short help", Args: []string{"-h"}},
		{Name: "unknown flag", Args: []string{"--foo"}},
		{Name: "value that belongs to no flag", Args: []string{"foo"}},
		{Name: "flag with an equals sign", Args: []string{"--api-sock=/nowhere"}},
		{Name: "flag without its value", Args: []string{"--api-sock"}},
		{Name: "flag with a flag for a value", Args: []string{"--api-sock", "--id"}},
		{Name: "flag given twice", Args: []string{"--id", "a", "--id", "b"}},
		{Name: "flags that exclude each other", Args: []string{"--no-seccomp", "--seccomp-filter", "x"}},
		{Name: "no API without a configuration", Args: []string{noAPI}},
		{Name: "unknown level", Args: []string{"--level", "foo"}},
		{Name: "log that cannot be opened", Args: []string{"--log-path", "{{dir}}/no/such/folder"}},
		{Name: "metrics that cannot be opened", Args: []string{"--metrics-path", "{{dir}}/no/such/folder"}},
		{Name: "socket that exists", Args: []string{"--api-sock", "{{dir}}/disk"}},
		{Name: "socket in a folder that does not exist", Args: []string{"--api-sock", "{{dir}}/no/such/folder"}},
		{Name: "identity with a dot", Args: []string{"--id", "a.b", "--api-sock", "{{dir}}/disk"}},
		{Name: "identity of 65 characters", Args: []string{"--id", strings.Repeat("a", 65), "--api-sock", "{{dir}}/disk"}},
		{Name: "identity of 64 characters", Args: []string{"--id", strings.Repeat("a", 64), "--api-sock", "{{dir}}/disk"}},
		{Name: "configuration that does not exist", Args: fromFile},
		{Name: "configuration that is no JSON", Args: fromFile, Config: "{"},
		{Name: "configuration without a kernel", Args: fromFile, Config: `{"drives":[]}`},
		{Name: "configuration with a kernel that does not exist", Args: fromFile, Config: `{"boot-source":{"kernel_image_path":"{{dir}}/none"},"drives":[]}`},
		{Name: "configuration with two root drives", Args: fromFile, Config: machine[:len(machine)-1] +
			`{"drive_id":"a","path_on_host":"{{dir}}/disk","is_root_device":true},{"drive_id":"b","path_on_host":"{{dir}}/disk","is_root_device":true}]}`},
		{Name: "configuration with an unknown field in a known one", Args: fromFile, Config: machine + `,"vsock":{"foo":1}}`},
		{Name: "guest that reboots", Args: fromFile, Config: machine + `,"foo":1,"machine-config":{"vcpu_count":1,"mem_size_mib":64}}`, Stdin: "r", Boots: true},
		{Name: "guest that reboots with an API socket", Args: []string{config, file, "--api-sock", "{{dir}}/s"}, Config: machine + "}", Stdin: "r", Boots: true},
		{Name: "kernel that does not boot", Args: fromFile, Config: `{"boot-source":{"kernel_image_path":"{{dir}}/text"},"drives":[]}`, Boots: true},
	}
}

// RunCommand runs the program and says how it ended: "exit 0" or "aborted".
func RunCommand(ctx context.Context, binary string, c Command) (_ string, err error) {
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	at, err := newPlace()
	if err != nil {
		return "", err
	}
	dir, expand := at.dir, at.expand
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if c.Config != "" {
		if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(expand(c.Config)), 0o644); err != nil {
			return "", err
		}
	}
	var args []string
	for _, a := range c.Args {
		args = append(args, expand(a))
	}
	cmd := exec.CommandContext(ctx, binary, args...)
	cmd.Stdin = strings.NewReader(c.Stdin)
	out, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		return "", fmt.Errorf("%q does not end: %s", c.Args, out)
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return "", err
	}
	if status := cmd.ProcessState.Sys().(syscall.WaitStatus); status.Signaled() {
		return status.Signal().String(), nil
	}
	return fmt.Sprintf("exit %d", cmd.ProcessState.ExitCode()), nil
}

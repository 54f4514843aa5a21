// Command firecracker-qemu stands in for the firecracker binary where there is no KVM: the same command line, the same API on
// a Unix socket, the same serial console on standard output, and the guest runs in QEMU's microvm machine by emulation.
//
// It is no security boundary. Firecracker's features that emulation cannot offer are refused by name.
//
// Environment: FIRECRACKER_QEMU_BINARY names another QEMU than the qemu-system-x86_64 in PATH; FIRECRACKER_QEMU_ACCEL is
// "auto" (KVM where a guest runs on it, else TCG), "tcg" or "kvm".
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/runcvm/runcvm/internal/emulator/api"
	"github.com/runcvm/runcvm/internal/emulator/qemu"
)

// Firecracker's exit codes (FcExitCode).
const (
	exitOK        = 0
	exitGeneric   = 1
	exitBadConfig = 152
	exitArguments = 153
	exitHangUp    = 156
)

func main() { os.Exit(run(os.Args[1:])) }

// failure is an error with the exit code that goes with it.
type failure struct {
	code int
	err  error
}

func (f *failure) Error() string { return f.err.Error() }

func run(args []string) int {
	log := api.NewLog("anonymous-instance", os.Stdout)
	err := start(args, &log)
	if err == nil {
		log.Logger().Info("Firecracker exiting successfully. exit_code=0")
		return exitOK
	}
	code := exitGeneric
	if f, ok := errors.AsType[*failure](err); ok {
		code = f.code
	}
	log.Logger().Error(err.Error())
	fmt.Fprintln(os.Stderr, "Error:", err)
	log.Logger().Error(fmt.Sprintf("Firecracker exiting with error. exit_code=%d", code))
	return code
}

func start(args []string, logp **api.Log) error {
	given, err := parseFlags(args)
	if err != nil {
		return &failure{exitArguments, inWords("Arguments parsing error: %v \n\nFor more information try --help.", err)}
	}
	switch {
	case given.has("help"):
		fmt.Printf("Firecracker v%s\n\n%s", api.Version, help())
		return nil
	case given.has("version"):
		fmt.Printf("Firecracker v%s\n\nfirecracker-qemu (emulation)\n", api.Version)
		return nil
	}
	id := given.get("id")
	if err := api.CheckID(id); err != nil {
		return inWords("Invalid instance ID: %v", err)
	}
	log := api.NewLog(id, os.Stdout)
	*logp = log
	if err := configureLog(log, given); err != nil {
		return err
	}
	log.Logger().Info("Running Firecracker v" + api.Version + " (firecracker-qemu, emulation)")
	limit, err := strconv.ParseUint(given.get("http-api-max-payload-size"), 10, 31)
	if err != nil {
		return fmt.Errorf("'http-api-max-payload-size' parameter expected to be of 'usize' type: %w", err)
	}
	metrics := &api.MetricsFile{}
	if path := given.get("metrics-path"); path != "" {
		if err := metrics.Open(path); err != nil {
			return inWords("Could not initialize metrics: %v", err)
		}
	}
	return serve(given, log, metrics, int(limit))
}

func configureLog(log *api.Log, given options) error {
	config := api.Logger{}
	yes := true
	if path, ok := given["log-path"]; ok {
		config.LogPath = &path
	}
	if text, ok := given["level"]; ok {
		level, known := api.ParseLevel(text)
		if !known {
			return &failure{exitBadConfig, inWords("Invalid value for logger level: Failed to parse string to level filter: %s."+
				"Possible values: [Error, Warning, Info, Debug]", text)}
		}
		config.Level = &level
	}
	if given.has("show-level") {
		config.ShowLevel = &yes
	}
	if given.has("show-log-origin") {
		config.ShowLogOrigin = &yes
	}
	if err := log.Update(config); err != nil {
		return inWords("Could not initialize logger: %v", err)
	}
	return nil
}

// serve runs the microVM to its end.
func serve(given options, log *api.Log, metrics *api.MetricsFile, limit int) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	signal.Ignore(syscall.SIGPIPE) // the console's reader may go, the guest stays
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)

	var listener net.Listener
	if !given.has("no-api") {
		var err error
		if listener, err = listen(given.get("api-sock")); err != nil {
			return err
		}
		log.Logger().Info(fmt.Sprintf("Listening on API socket (%q).", given.get("api-sock")))
	}
	restore := rawTerminal()
	defer restore()
	ended := make(chan error, 1)
	vmm, err := newVMM(given, log, metrics, limit, func(err error) { ended <- err })
	if err != nil {
		return err
	}
	if path, ok := given["config-file"]; ok {
		if err := startFromFile(ctx, vmm, path); err != nil {
			return errors.Join(err, vmm.Close())
		}
		log.Logger().Info("Successfully started microvm that was configured from one single json")
	}
	served := make(chan error, 1)
	if listener != nil {
		go func() { served <- vmm.Serve(ctx, listener) }()
	} else {
		go func() { <-ctx.Done(); served <- nil }()
	}
	err = wait(ended, served, signals)
	cancel()
	return errors.Join(err, vmm.Close())
}

// wait returns when the guest has ended, the API has failed, or a signal says so.
func wait(ended, served chan error, signals chan os.Signal) error {
	select {
	case err := <-ended:
		if err != nil {
			return fmt.Errorf("the guest's QEMU failed: %w", err)
		}
		return nil
	case err := <-served:
		return err
	case s := <-signals:
		if s == syscall.SIGHUP {
			return &failure{exitHangUp, inWords("Shutting down VM after intercepting signal 1")}
		}
		const bySignal = 128 // a shell's convention
		return &failure{bySignal + int(s.(syscall.Signal)), fmt.Errorf("ended by signal %q", s)}
	}
}

func newVMM(given options, log *api.Log, metrics *api.MetricsFile, limit int, ended func(error)) (*api.VMM, error) {
	binary := os.Getenv("FIRECRACKER_QEMU_BINARY")
	if binary == "" {
		binary = "qemu-system-x86_64"
	}
	binary, err := exec.LookPath(binary)
	if err != nil {
		return nil, fmt.Errorf("find QEMU (Debian: qemu-system-x86): %w", err)
	}
	accel := os.Getenv("FIRECRACKER_QEMU_ACCEL")
	switch accel {
	case "":
		accel = "auto"
	case "auto", "tcg", "kvm":
	default:
		return nil, fmt.Errorf("FIRECRACKER_QEMU_ACCEL=%s: auto, tcg or kvm", accel)
	}
	var stdin io.Reader = os.Stdin
	launcher := qemu.New(qemu.Launcher{
		Binary: binary, Accel: accel, Stdin: stdin, Stdout: os.Stdout, Log: log.Logger(), Ended: ended,
	})
	return api.New(api.Options{
		ID: given.get("id"), Launcher: launcher, Log: log, Metrics: metrics, MaxPayload: limit,
		ListenVsock: func(cid uint32, path string) (api.VsockDevice, error) {
			return qemu.ListenVsock(cid, path, log.Logger())
		},
	}), nil
}

func startFromFile(ctx context.Context, vmm *api.VMM, path string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return inWords("Unable to open or read from the configuration file: %v", err)
	}
	if err := vmm.Load(ctx, text); err != nil {
		return inWords("Configuration for VMM from one single json failed: %v", err)
	}
	if err := vmm.Start(ctx); err != nil {
		return inWords("Could not Start MicroVM from one single json: %v", err)
	}
	return nil
}

// listen binds the API socket. Like Firecracker it neither replaces one that is there nor removes its own at the end.
func listen(path string) (net.Listener, error) {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if errors.Is(err, unix.EADDRINUSE) {
		return nil, inWords("Failed to open the API socket at: %s. Check that it is not already used.", path)
	}
	if err != nil {
		return nil, inWords("Failed to bind and run the HTTP server: %v", err)
	}
	l.SetUnlinkOnClose(false)
	return l, nil
}

// rawTerminal gives the guest every key when standard input is a terminal, and returns what undoes that.
func rawTerminal() func() {
	fd := int(os.Stdin.Fd())
	old, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return func() {}
	}
	raw := *old
	raw.Lflag &^= unix.ICANON | unix.ECHO | unix.ISIG // as Firecracker: output processing stays
	if unix.IoctlSetTermios(fd, unix.TCSETS, &raw) != nil {
		return func() {}
	}
	return func() { _ = unix.IoctlSetTermios(fd, unix.TCSETS, old) } // nothing better can be done at the end
}

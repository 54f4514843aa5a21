package ocicli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	grpcstatus "google.golang.org/grpc/status"

	"github.com/runcvm/runcvm/internal/container"
	"github.com/runcvm/runcvm/internal/monitor"
)

// ask calls a container's monitor. A monitor that is gone is errNotRunning.
func (a *app) ask(ctx context.Context, e *container.Entry, call func(context.Context, *monitor.Client) error) error {
	if !e.Alive {
		return errNotRunning
	}
	c, err := monitor.Dial(ctx, e)
	if err != nil {
		return a.gone(e, err)
	}
	defer func() { _ = c.Close() }() // all that was asked for is answered
	if err = call(ctx, c); err == nil {
		return nil
	}
	if s, ok := grpcstatus.FromError(err); ok {
		err = fmt.Errorf("container %s: %s", e.Bundle.ID, s.Message())
	}
	return a.gone(e, err)
}

// gone says that the container has ended, where that is why its monitor could not be asked.
func (a *app) gone(e *container.Entry, err error) error {
	now, aerr := e.Again()
	if aerr != nil || !now.Alive || now.State == "stopped" {
		return errNotRunning
	}
	return err
}

// readSpec reads the bundle's specification as it was at create.
func readSpec(e *container.Entry) (*specs.Spec, error) {
	text, err := os.ReadFile(filepath.Join(e.Dir, container.BundleFile))
	spec := new(specs.Spec)
	if err == nil {
		err = json.Unmarshal(text, spec)
	}
	if err != nil {
		// Without the words of the system's errors, which engines take for the container's program.
		return nil, errors.New("the specification that the container was created from is damaged; delete it")
	}
	return spec, nil
}

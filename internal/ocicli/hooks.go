package ocicli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// runHooks runs hooks one after the other, each with the container's state on its standard input, and ends at the first that fails.
func runHooks(ctx context.Context, kind string, hooks []specs.Hook, state *specs.State) error {
	for i, h := range hooks {
		if err := runHook(ctx, h, state); err != nil {
			return fmt.Errorf("error running %s hook #%d: %w", kind, i, err)
		}
	}
	return nil
}

// runPoststop runs the hooks that follow a container's removal. One that fails does not keep the others from running.
func (a *app) runPoststop(ctx context.Context, h *specs.Hooks, state *specs.State) {
	if h == nil {
		return
	}
	for i := range h.Poststop {
		if err := runHooks(ctx, "poststop", h.Poststop[i:i+1], state); err != nil {
			a.log.warn(err.Error())
		}
	}
}

// maxHookOutput bounds what an error tells of a hook's output, in bytes.
const maxHookOutput = 4096

func runHook(ctx context.Context, h specs.Hook, state *specs.State) error {
	if h.Timeout != nil {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, time.Duration(*h.Timeout)*time.Second,
			fmt.Errorf("it has not ended within its timeout of %d s", *h.Timeout))
		defer cancel()
	}
	text, err := json.Marshal(state)
	if err != nil {
		return fmt.Errorf("write the container's state: %w", err)
	}
	cmd := exec.CommandContext(ctx, h.Path)
	if len(h.Args) > 0 {
		cmd.Args = h.Args
	}
	cmd.Env, cmd.Dir = h.Env, state.Bundle
	var out bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(text), &out, &out
	// What a hook leaves behind may hold its output open.
	cmd.WaitDelay = time.Second
	err = cmd.Run()
	if err == nil || errors.Is(err, exec.ErrWaitDelay) {
		return nil
	}
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	said := out.String()
	return fmt.Errorf("%s: %w, output: %s", h.Path, err, strings.TrimSpace(said[:min(len(said), maxHookOutput)]))
}

package sandbox

import (
	"context"
	"fmt"
	"strings"

	"github.com/runcvm/runcvm/internal/guestapi"
)

// Usage asks the guest what the container uses. Any number may be a lie.
func (c *Container) Usage(ctx context.Context) (*guestapi.StatsResponse, error) {
	if state := c.State(); state != Running && state != Paused {
		return nil, fmt.Errorf("what it uses: the container is %s: %w", state, ErrTransition)
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	answer, err := c.s.control.Stats(ctx, &guestapi.StatsRequest{ContainerId: c.h.container})
	if err != nil {
		return nil, fmt.Errorf("ask the guest what the container uses: %w", err)
	}
	return answer, nil
}

const (
	// maxProcesses bounds a list of processes: the contract's number.
	maxProcesses = 4096
	// maxArgs bounds a process's arguments, in bytes, maxWord its other texts, maxArgCount how many there are.
	maxArgs     = 1 << 10
	maxWord     = 64
	maxArgCount = 512
)

// Processes lists the container's processes and says how many there are in all. All texts are printable and short; any of it
// may be a lie.
func (c *Container) Processes(ctx context.Context) (list []*guestapi.Process, total int, err error) {
	if state := c.State(); state != Running && state != Paused {
		return nil, 0, fmt.Errorf("its processes: the container is %s: %w", state, ErrTransition)
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	answer, err := c.s.control.ListProcesses(ctx, &guestapi.ListProcessesRequest{ContainerId: c.h.container})
	if err != nil {
		return nil, 0, fmt.Errorf("ask the guest for the container's processes: %w", err)
	}
	list = answer.GetProcesses()
	list = list[:min(len(list), maxProcesses)]
	for _, p := range list {
		for _, text := range []*string{&p.User, &p.Group, &p.State, &p.Tty, &p.Name} {
			*text = strings.ToValidUTF8(clean(*text, maxWord), "?")
		}
		p.Args = cleanArgs(p.Args)
	}
	return list, max(int(answer.GetTotal()), len(list)), nil
}

func cleanArgs(args []string) []string {
	left := maxArgs
	args = args[:min(len(args), maxArgCount)]
	for i, a := range args {
		if left <= 0 {
			return args[:i]
		}
		args[i] = strings.ToValidUTF8(clean(a, left), "?")
		left -= len(args[i]) + 1
	}
	return args
}

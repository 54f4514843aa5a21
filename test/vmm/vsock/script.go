package vsock

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/runcvm/runcvm/test/vmm/vsock/peer"
)

// Case is a script. Its lines are
//
//	host WORD NAME ARGUMENT...	the host's end carries out a word of package peer
//	guest WORD NAME ARGUMENT...	the guest's end does
//	start SIDE WORD NAME ...	begins a word that takes until something else happens; the next lines go on meanwhile
//	finish SIDE WORD NAME ...	waits for it, and has its observation
//	guest stall SECONDS		from now on the guest does nothing for so long
//	settle			what the guest has sent before has reached the device, and what the device has for it, the guest
//	wait SECONDS
//
// A word is followed by the socket's name, which each end has its own of. "drain NAME OF" compares what came with what the
// other end's fill of socket OF has written.
type Case struct {
	Name   string
	Script string
}

// Step is a line of a script and what it observed.
type Step struct {
	Line     string `json:"line"`
	Observed string `json:"observed,omitempty"`
}

// Recording is all that one version did.
type Recording struct {
	Version string            `json:"version"`
	Cases   map[string][]Step `json:"cases"`
}

// Difference is another observation, to which firecracker-qemu is entitled.
type Difference struct {
	Case     string `json:"case"`
	Step     int    `json:"step"` // counted from 0
	Reason   string `json:"reason"`
	Observed string `json:"observed"`
}

// runner plays scripts.
type runner struct {
	host  *peer.Peer
	guest *peer.Remote
	// onConsole returns when the guest has said something on its console.
	onConsole func(ctx context.Context, text string) error
	stalls    int
}

// play is one script's run.
type play struct {
	*runner
	filled  map[string]uint64 // by "side name"
	started map[string]func() (peer.Observation, error)
}

// run plays a case, and leaves neither end a socket.
func (r *runner) run(ctx context.Context, c Case) (steps []Step, err error) {
	p := &play{runner: r, filled: map[string]uint64{}, started: map[string]func() (peer.Observation, error){}}
	defer func() {
		_, reset := r.guest.Start(peer.ResetAll)()
		err = errors.Join(err, r.host.Reset(), reset)
	}()
	for line := range strings.Lines(c.Script) {
		line = strings.TrimSpace(line)
		if line == "" {
			continue
		}
		observed, err := p.step(ctx, line)
		if err != nil {
			return steps, fmt.Errorf("%s: %w", line, err)
		}
		steps = append(steps, Step{Line: line, Observed: observed})
	}
	if len(p.started) != 0 {
		return steps, fmt.Errorf("%d words are not finished", len(p.started))
	}
	return steps, nil
}

func (p *play) step(ctx context.Context, line string) (string, error) {
	head, rest, _ := strings.Cut(line, " ")
	switch head {
	case "wait":
		return "", wait(ctx, rest)
	case "settle":
		return "", p.settle()
	case "start":
		do, err := p.begin(ctx, rest)
		p.started[rest] = do
		return "", err
	case "finish":
		do := p.started[rest]
		if do == nil {
			return "", errors.New("this was not started")
		}
		delete(p.started, rest)
		return p.observe(rest, do)
	}
	do, err := p.begin(ctx, line)
	if err != nil {
		return "", err
	}
	return p.observe(line, do)
}

func wait(ctx context.Context, seconds string) error {
	d, err := time.ParseDuration(seconds + "s")
	if err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// settle makes some round trips through the device, which takes turns: the data of a Unix socket and its end are two turns, and
// the first reply may come before what the device has made of the guest's last packets.
func (p *play) settle() error {
	const turns = 3
	for range turns {
		if _, err := p.guest.Start(peer.Ping)(); err != nil {
			return err
		}
	}
	return nil
}

// begin starts what a line says.
func (p *play) begin(ctx context.Context, line string) (func() (peer.Observation, error), error) {
	words := strings.Fields(line)
	const enough = 3 // side, word, name
	if len(words) < enough {
		return nil, errors.New("this is no line of a script")
	}
	if q := strings.IndexByte(line, '"'); q >= 0 { // one quoted text, at the end
		words = append(strings.Fields(line[:q]), line[q:])
	}
	side, word, args := words[0], words[1], words[2:]
	switch word {
	case "stall":
		p.stalls++
		token := fmt.Sprintf("stall %d begins", p.stalls)
		do := p.guest.Start(word, "-", token, args[0])
		return do, p.onConsole(ctx, token)
	case "quiet":
		if err := p.settle(); err != nil {
			return nil, err
		}
	case "drain":
		args = args[:1]
	}
	switch side {
	case "guest":
		return p.guest.Start(word, args...), nil
	case "host":
		type result struct {
			o   peer.Observation
			err error
		}
		done := make(chan result, 1)
		go func() {
			o, err := p.host.Do(word, args)
			done <- result{o, err}
		}()
		return func() (peer.Observation, error) { r := <-done; return r.o, r.err }, nil
	}
	return nil, fmt.Errorf("there is no side %q", side)
}

// observe waits for what a line does and makes it comparable.
func (p *play) observe(line string, do func() (peer.Observation, error)) (string, error) {
	o, err := do()
	if err != nil {
		return "", err
	}
	if strings.Contains(o.Text, peer.Stuck) {
		return "", fmt.Errorf("nothing happens for %v: %s", peer.Patience, o.Text)
	}
	words := strings.Fields(line)
	switch words[1] {
	case "fill":
		p.filled[words[0]+" "+words[2]] = o.Count
	case "drain":
		other := map[string]string{"host": "guest", "guest": "host"}[words[0]]
		all, ok := p.filled[other+" "+words[len(words)-1]]
		switch {
		case !ok:
			return "", errors.New("nothing was filled")
		case o.Count == all:
			return "all, " + o.Text, nil
		case o.Count > all:
			return "", fmt.Errorf("%d bytes of %d came", o.Count, all)
		case o.Count == 0:
			return "nothing, " + o.Text, nil
		}
		return "a part, " + o.Text, nil
	}
	return o.Text, nil
}

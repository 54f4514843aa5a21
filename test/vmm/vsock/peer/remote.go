package peer

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
)

// ControlPort is the guest's vsock port for the one connection over which its end is told what to do. Both directions carry
// JSON objects, one a line: requests, and replies in the order in which they are ready.
const ControlPort = 1024

// Words for Remote.Do that are no sockets' words.
const (
	// Ping does nothing: its reply has gone through the device after all that came before.
	Ping = "ping"
	// ResetAll is Peer.Reset.
	ResetAll = "reset"
)

type request struct {
	ID   uint64   `json:"id"`
	Word string   `json:"word"`
	Args []string `json:"args"`
}

type reply struct {
	ID    uint64 `json:"id"`
	Text  string `json:"text"`
	Count uint64 `json:"count"`
	Error string `json:"error,omitempty"`
}

// Serve carries out what comes over a connection until it ends. More holds words beside those of p.
func Serve(conn io.ReadWriter, p *Peer, more map[string]func(args []string) error) error {
	var mu sync.Mutex
	for dec, enc := json.NewDecoder(conn), json.NewEncoder(conn); ; {
		var r request
		if err := dec.Decode(&r); err != nil {
			return fmt.Errorf("control connection: %w", err)
		}
		go func() {
			answer := carryOut(p, more, r)
			mu.Lock()
			defer mu.Unlock()
			_ = enc.Encode(answer) // a connection that has broken is seen by the reader
		}()
	}
}

func carryOut(p *Peer, more map[string]func(args []string) error, r request) reply {
	a := reply{ID: r.ID}
	var o Observation
	var err error
	switch do := more[r.Word]; {
	case do != nil:
		err = do(r.Args)
		o = said(nil)
	case r.Word == Ping:
	case r.Word == ResetAll:
		err = p.Reset()
	default:
		o, err = p.Do(r.Word, r.Args)
	}
	if err != nil {
		a.Error = err.Error()
	}
	a.Text, a.Count = o.Text, o.Count
	return a
}

// Remote is the end in the guest as the host sees it.
type Remote struct {
	enc *json.Encoder

	mu      sync.Mutex
	last    uint64
	waiting map[uint64]chan reply
	err     error // why there are no more replies
}

// NewRemote speaks to Serve over a connection, which it never closes.
func NewRemote(conn io.ReadWriter) *Remote {
	r := &Remote{enc: json.NewEncoder(conn), waiting: map[uint64]chan reply{}}
	go r.receive(json.NewDecoder(bufio.NewReader(conn)))
	return r
}

func (r *Remote) receive(dec *json.Decoder) {
	for {
		var a reply
		err := dec.Decode(&a)
		r.mu.Lock()
		if err != nil {
			r.err = fmt.Errorf("the guest's end has gone: %w", err)
			for _, c := range r.waiting {
				close(c)
			}
			r.mu.Unlock()
			return
		}
		c := r.waiting[a.ID]
		delete(r.waiting, a.ID)
		r.mu.Unlock()
		if c != nil {
			c <- a
		}
	}
}

// Start sends a word, and returns what waits for its observation.
func (r *Remote) Start(word string, args ...string) func() (Observation, error) {
	c := make(chan reply, 1)
	r.mu.Lock()
	defer r.mu.Unlock()
	err := r.err
	if err == nil {
		r.last++
		err = r.enc.Encode(request{ID: r.last, Word: word, Args: args})
	}
	if err != nil {
		return func() (Observation, error) { return Observation{}, err }
	}
	r.waiting[r.last] = c
	return func() (Observation, error) {
		a, ok := <-c
		if !ok {
			r.mu.Lock()
			defer r.mu.Unlock()
			return Observation{}, r.err
		}
		o := Observation{Text: a.Text, Count: a.Count}
		if a.Error != "" {
			return o, errors.New(a.Error)
		}
		return o, nil
	}
}

package qemu

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
)

// errQMPClosed says that QEMU has closed its control socket.
var errQMPClosed = errors.New("QEMU has closed its control socket")

// maxQMPLine bounds a message of QEMU's, in bytes; those that are used here are below 1 KiB.
const maxQMPLine = 1 << 20

// qmp is a client of the QEMU Machine Protocol (QEMU's docs/interop/qmp-spec).
type qmp struct {
	conn   io.ReadWriteCloser
	events func(name string, data json.RawMessage)

	mu      sync.Mutex
	next    uint64
	waiting map[uint64]chan qmpReply
	closed  bool
}

type qmpReply struct {
	Greeting json.RawMessage `json:"QMP"`
	ID       uint64          `json:"id"`
	Return   json.RawMessage `json:"return"`
	Error    *struct {
		Class, Desc string
	} `json:"error"`
	Event string          `json:"event"`
	Data  json.RawMessage `json:"data"`
}

// newQMP starts reading conn; events gets each event in order, on the reading goroutine, and must not call execute.
func newQMP(conn io.ReadWriteCloser, events func(string, json.RawMessage)) *qmp {
	q := &qmp{conn: conn, events: events, waiting: map[uint64]chan qmpReply{}, next: 1}
	go q.read()
	return q
}

func (q *qmp) read() {
	lines := bufio.NewScanner(q.conn)
	lines.Buffer(nil, maxQMPLine)
	for lines.Scan() {
		var r qmpReply
		if json.Unmarshal(lines.Bytes(), &r) != nil {
			break // not QMP: as good as closed
		}
		switch {
		case r.Event != "":
			q.events(r.Event, r.Data)
		case r.Greeting == nil:
			q.mu.Lock()
			reply := q.waiting[r.ID]
			delete(q.waiting, r.ID)
			q.mu.Unlock()
			if reply != nil {
				reply <- r
			}
		}
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	for _, reply := range q.waiting {
		close(reply)
	}
	q.waiting = nil
}

// execute runs a command and waits until it is done.
func (q *qmp) execute(ctx context.Context, command string, arguments any) error {
	_, err := q.call(ctx, command, arguments)
	return err
}

// ask runs a command of QEMU's monitor for people and returns what that prints.
func (q *qmp) ask(ctx context.Context, line string) (text string, err error) {
	answer, err := q.call(ctx, "human-monitor-command", map[string]any{"command-line": line})
	if err == nil {
		err = json.Unmarshal(answer, &text)
	}
	return text, err
}

// call runs a command and returns its answer.
func (q *qmp) call(ctx context.Context, command string, arguments any) (json.RawMessage, error) {
	reply := make(chan qmpReply, 1)
	q.mu.Lock()
	if q.closed {
		q.mu.Unlock()
		return nil, fmt.Errorf("%s: %w", command, errQMPClosed)
	}
	id := q.next
	q.next++
	q.waiting[id] = reply
	message := map[string]any{"execute": command, "id": id}
	if arguments != nil {
		message["arguments"] = arguments
	}
	line, err := json.Marshal(message)
	if err == nil {
		// QEMU may have gone before or after this; that makes no difference.
		if _, werr := q.conn.Write(append(line, '\n')); werr != nil {
			err = errors.Join(errQMPClosed, werr)
		}
	}
	if err != nil {
		delete(q.waiting, id)
	}
	q.mu.Unlock()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", command, err)
	}
	select {
	case r, ok := <-reply:
		switch {
		case !ok:
			return nil, fmt.Errorf("%s: %w", command, errQMPClosed)
		case r.Error != nil:
			return nil, fmt.Errorf("%s: %s", command, r.Error.Desc)
		}
		return r.Return, nil
	case <-ctx.Done():
		q.mu.Lock()
		delete(q.waiting, id)
		q.mu.Unlock()
		return nil, fmt.Errorf("%s: %w", command, ctx.Err())
	}
}

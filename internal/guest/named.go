package guest

import (
	"sync"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/runcvm/runcvm/internal/guestapi"
)

// namedStreams are a container's streams beside those of its own process, by the id that the host gave to what they belong to: a
// further process, or a copy of files.
type namedStreams struct {
	mu  sync.Mutex
	all map[string][]*stream
}

// add lets the host open these streams by the id, until remove.
func (n *namedStreams) add(id string, streams ...*stream) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.all[id] != nil {
		return status.Errorf(codes.AlreadyExists, "the id %q is in use", id)
	}
	if n.all == nil {
		n.all = map[string][]*stream{}
	}
	n.all[id] = streams
	return nil
}

// remove takes the id back. Streams that are open stay so.
func (n *namedStreams) remove(id string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.all, id)
}

func (n *namedStreams) find(id string, kind guestapi.Stream) *stream {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, s := range n.all[id] {
		if s.kind == kind {
			return s
		}
	}
	return nil
}

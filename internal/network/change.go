package network

import (
	"context"
	"fmt"
	"log/slog"
	"net"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// watchChanges tells of interfaces that come and go after the start, until ctx ends: a VMM takes no network device while its guest runs,
// so that the guest has them only from its next start on.
func watchChanges(ctx context.Context, log *slog.Logger) error {
	updates := make(chan netlink.LinkUpdate)
	// The interfaces that are there come first, as if they came now: none can slip through in between.
	err := netlink.LinkSubscribeWithOptions(updates, ctx.Done(), netlink.LinkSubscribeOptions{
		ListExisting:  true,
		ErrorCallback: func(err error) { log.Warn("interfaces that come and go are not seen any more", "error", err) },
	})
	if err != nil {
		return fmt.Errorf("watch interfaces: %w", err)
	}
	known, err := netlink.LinkList()
	if err != nil {
		return fmt.Errorf("list interfaces: %w", err)
	}
	c := changes{log: log, had: map[int]bool{}, seen: map[int]bool{}}
	for _, l := range known {
		if isInterface(l) {
			c.had[l.Attrs().Index] = true
		}
	}
	go func() {
		for u := range updates {
			c.take(u)
		}
	}()
	return nil
}

// changes knows which interfaces have been told of.
type changes struct {
	log  *slog.Logger
	had  map[int]bool // those of the start that are still there
	seen map[int]bool // those that came later
}

func (c *changes) take(u netlink.LinkUpdate) {
	a := u.Attrs()
	switch {
	case u.Header.Type == unix.RTM_DELLINK && c.had[a.Index]:
		delete(c.had, a.Index)
		c.log.Warn("an interface has gone: the guest keeps its own, without a network, until the container's next start",
			"interface", a.Name)
	case u.Header.Type == unix.RTM_DELLINK:
		delete(c.seen, a.Index)
	case !c.had[a.Index] && !c.seen[a.Index] && isInterface(u.Link):
		c.seen[a.Index] = true
		c.log.Warn("an interface has come after the start, as by docker network connect: the guest has it from the container's next start "+
			"on",
			"interface", a.Name)
	}
}

// isInterface says whether a link is one that a guest would have.
func isInterface(l netlink.Link) bool {
	a := l.Attrs()
	return a.Flags&net.FlagUp != 0 && a.Flags&net.FlagLoopback == 0 && l.Type() != "tuntap"
}

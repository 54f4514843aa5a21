package container

import (
	"maps"

	"github.com/runcvm/runcvm/internal/events"
)

// emit writes an event of a container, with Docker's attributes and those of the action.
func (s *Store) emit(r Record, action string, attributes map[string]string) error {
	all := map[string]string{"name": r.Name, "image": r.Image}
	maps.Copy(all, r.Labels)
	maps.Copy(all, attributes)
	return s.events.Write(events.Event{Type: events.Container, Action: action, ID: r.ID, Attributes: all})
}

// Event writes that something has happened to the container.
func (h *Handle) Event(r Record, action string, attributes map[string]string) error {
	return h.store.emit(r, action, attributes)
}

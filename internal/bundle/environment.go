package bundle

import "slices"

// CreationNotes are the bundle's notes, and those of what in the environment of the runtime that creates the container is met otherwise.
func (b *Bundle) CreationNotes(lookup func(string) (string, bool)) []string {
	notes := slices.Clone(b.Notes)
	if socket, ok := lookup("NOTIFY_SOCKET"); ok && socket != "" {
		notes = append(notes, "NOTIFY_SOCKET is left out: a socket of the host's does not reach the guest, and the service manager hears "+
			"nothing from the container; let the engine tell it (podman run --sdnotify=conmon), or have a unit of Type=exec")
	}
	return notes
}

package bundle

// EnvironmentNotes are, as Bundle.Notes, of what in the environment of a runtime that creates a container is met otherwise.
func EnvironmentNotes(lookup func(string) (string, bool)) []string {
	socket, ok := lookup("NOTIFY_SOCKET")
	if !ok || socket == "" {
		return nil
	}
	return []string{"NOTIFY_SOCKET is left out: a socket of the host's does not reach the guest, and the service manager hears " +
		"nothing from the container; let the engine tell it (podman run --sdnotify=conmon), or have a unit of Type=exec"}
}

package monitor

import (
	"strings"
	"testing"

	"github.com/runcvm/runcvm/internal/cni"
)

func TestExposedPortsAreThoseOfTheImageAndTheUsersOnceEach(t *testing.T) {
	ports, err := exposedPorts([]string{"443/tcp", "53/udp", "80"}, []cni.Port{{ContainerPort: 80, Protocol: "tcp"}, {ContainerPort: 7, Protocol: "tcp"}})
	var got []string
	for _, p := range ports {
		got = append(got, p.Spec())
	}
	if want := "80/tcp 7/tcp 443/tcp 53/udp"; err != nil || strings.Join(got, " ") != want {
		t.Errorf("%v, %v; want %s", got, err, want)
	}
	if _, err := exposedPorts([]string{"http"}, nil); err == nil || !strings.Contains(err.Error(), "exposes") {
		t.Errorf("what is no port: %v", err)
	}
}

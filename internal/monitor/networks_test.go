package monitor

import (
	"strings"
	"testing"

	"github.com/runcvm/runcvm/internal/cni"
	"github.com/runcvm/runcvm/internal/image"
)

func TestExposedPortsAreThoseOfTheImageAndTheUsersOnceEach(t *testing.T) {
	var img image.Image
	img.Config.Config.ExposedPorts = map[string]struct{}{"80": {}, "53/udp": {}, "443/tcp": {}}
	ports, err := exposedPorts(img, []cni.Port{{ContainerPort: 80, Protocol: "tcp"}, {ContainerPort: 7, Protocol: "tcp"}})
	var got []string
	for _, p := range ports {
		got = append(got, p.Spec())
	}
	if want := "80/tcp 7/tcp 443/tcp 53/udp"; err != nil || strings.Join(got, " ") != want {
		t.Errorf("%v, %v; want %s", got, err, want)
	}
	img.Config.Config.ExposedPorts = map[string]struct{}{"http": {}}
	if _, err := exposedPorts(img, nil); err == nil || !strings.Contains(err.Error(), "exposes") {
		t.Errorf("what is no port: %v", err)
	}
}

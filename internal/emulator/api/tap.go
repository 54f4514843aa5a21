package api

import (
	"os"

	"golang.org/x/sys/unix"
)

// openTap opens the TAP device name as Firecracker does (frames with a virtio-net header), and returns the name that
// the kernel gave it.
func openTap(name string) (*os.File, string, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, "", faultf("Couldn't open /dev/net/tun: %s", rustError(err))
	}
	f := os.NewFile(uintptr(fd), "/dev/net/tun")
	got, err := setTap(fd, name)
	if err != nil {
		_ = f.Close() // the first error is the one that matters
		return nil, "", err
	}
	return f, got, nil
}

func setTap(fd int, name string) (string, error) {
	req, err := unix.NewIfreq(name)
	if err != nil || len(name) >= unix.IFNAMSIZ {
		return "", faultf("Invalid interface name")
	}
	req.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, req); err != nil {
		return "", faultf("Error while creating ifreq structure: %s. Invalid TUN/TAP Backend provided by %s. "+
			"Check our documentation on setting up the network devices.", rustError(err), name)
	}
	return req.Name(), nil
}

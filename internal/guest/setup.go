package guest

import (
	"encoding/binary"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/runcvm/runcvm/internal/guestapi"
)

const (
	// minEntropy is what the kernel's generator needs to be ready, in bytes (random(7)); maxEntropy is what one call may credit.
	minEntropy = 32
	maxEntropy = 512
)

// setup sets what is the whole guest's. The clock comes first: the host's time is old by what happens before.
func (a *agent) setup(r *guestapi.SetupRequest) (kernelRelease string, err error) {
	if err := a.clock.set(r.UnixNanos); err != nil {
		return "", err
	}
	if n := len(r.Entropy); n < minEntropy || n > maxEntropy {
		return "", status.Errorf(codes.InvalidArgument, "%d bytes of entropy; from %d to %d are legal", n, minEntropy, maxEntropy)
	}
	if err := creditEntropy(r.Entropy); err != nil {
		return "", err
	}
	if r.Hostname != "" {
		if err := unix.Sethostname([]byte(r.Hostname)); err != nil {
			return "", fmt.Errorf("set the host name %.64q: %w", r.Hostname, err)
		}
	}
	if err := loopbackUp(); err != nil {
		return "", err
	}
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "", err
	}
	return unix.ByteSliceToString(u.Release[:]), nil
}

// creditEntropy adds b to the kernel's pool and credits all of it: it comes from the host's own generator. The argument of
// RNDADDENTROPY is struct rand_pool_info (random(4)): bits to credit, bytes that follow, the bytes.
func creditEntropy(b []byte) error {
	fd, err := unix.Open("/dev/urandom", unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("entropy: %w", err)
	}
	defer unix.Close(fd)
	info := make([]byte, 8, 8+len(b))
	binary.NativeEndian.PutUint32(info, uint32(len(b)*8))
	binary.NativeEndian.PutUint32(info[4:], uint32(len(b)))
	info = append(info, b...)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.RNDADDENTROPY, uintptr(unsafe.Pointer(&info[0]))); errno != 0 {
		return fmt.Errorf("entropy: %w", errno)
	}
	return nil
}

// loopbackUp sets the guest's own loopback interface up.
func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("loopback: %w", err)
	}
	defer unix.Close(fd)
	req, err := unix.NewIfreq("lo")
	if err != nil {
		return fmt.Errorf("loopback: %w", err)
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFFLAGS, req); err != nil {
		return fmt.Errorf("loopback: %w", err)
	}
	req.SetUint16(req.Uint16() | unix.IFF_UP)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, req); err != nil {
		return fmt.Errorf("loopback: %w", err)
	}
	return nil
}

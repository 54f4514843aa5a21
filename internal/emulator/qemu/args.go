package qemu

import (
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/runcvm/runcvm/internal/emulator/api"
)

// The microvm machine has 8 virtio-mmio slots on its first IO-APIC and 24 with a second one. Empty slots cost the guest
// time, so the second is there only when it is needed.
const (
	fewSlots  = 8
	manySlots = 24
)

// translationMiB bounds QEMU's buffer of translated code. Its default, a GiB at most, costs some 175 MiB for each guest;
// with 64 MiB a stock kernel boots without running out of it.
const translationMiB = 64

// command collects QEMU's arguments and the descriptors that it inherits.
type command struct {
	args  []string
	files []*os.File // files[k] is descriptor 3+k in QEMU
	slot  int        // the last one taken, counting down
}

func (c *command) add(args ...string) { c.args = append(c.args, args...) }

// inherit gives QEMU f and returns its descriptor there.
func (c *command) inherit(f *os.File) int {
	c.files = append(c.files, f)
	return 2 + len(c.files)
}

// device adds a virtio device. Linux finds the slots in ACPI's table from the last to the first, so the first device has the
// highest slot: the guest sees them in the order of their adding, as under Firecracker, and the root device is vda.
func (c *command) device(driver string, properties ...string) {
	c.slot--
	bus := "bus=virtio-mmio-bus." + strconv.Itoa(c.slot)
	c.add("-device", strings.Join(append([]string{driver, bus}, properties...), ","))
}

func devices(s *api.Spec) int {
	n := len(s.Drives) + len(s.NICs)
	if s.Vsock != nil {
		n++
	}
	if s.Entropy {
		n++
	}
	return n
}

// arguments builds QEMU's command line. The descriptors are the other ends of this process's sockets.
func arguments(s *api.Spec, accel string, control, serial, vsock *os.File) (*command, error) {
	n := devices(s)
	if n > manySlots {
		return nil, fmt.Errorf("%d devices: QEMU's microvm machine has room for %d", n, manySlots)
	}
	c := &command{slot: n}
	c.machine(s, accel, n)
	c.add("-kernel", s.Boot.KernelImagePath)
	if s.Boot.InitrdPath != nil {
		c.add("-initrd", *s.Boot.InitrdPath)
	}
	c.add("-append", s.Cmdline)
	c.add("-chardev", fmt.Sprintf("socket,id=control,fd=%d", c.inherit(control)), "-mon", "chardev=control,mode=control")
	c.add("-chardev", fmt.Sprintf("socket,id=serial,fd=%d", c.inherit(serial)), "-serial", "chardev:serial")
	for k, d := range s.Drives {
		if err := c.drive(k, d); err != nil {
			return nil, err
		}
	}
	for k, nic := range s.NICs {
		if err := c.nic(k, nic); err != nil {
			return nil, err
		}
	}
	if vsock != nil {
		c.add("-chardev", fmt.Sprintf("socket,id=vsock,fd=%d", c.inherit(vsock)))
		c.device("vhost-user-vsock-device", "chardev=vsock")
	}
	if s.Entropy {
		c.add("-object", "rng-random,id=entropy,filename=/dev/urandom")
		c.device("virtio-rng-device", "rng=entropy")
	}
	return c, nil
}

func (c *command) machine(s *api.Spec, accel string, devices int) {
	second := "off"
	if devices > fewSlots {
		second = "on"
	}
	// As Firecracker's machine: no PCI, no PIT or PIC that the guest would use, a serial port, and an i8042 for reboot=k and
	// Ctrl+Alt+Del. Firecracker's ACPI says that there is no clock chip, QEMU's cannot: Linux would wait for one for seconds.
	c.add("-no-user-config", "-nodefaults", "-display", "none",
		"-machine", "microvm,acpi=on,pit=off,pic=off,rtc=on,isa-serial=on,memory-backend=memory,mem-merge=off,"+
			"dump-guest-core=off,ioapic2="+second,
		"-global", "virtio-mmio.force-legacy=false",
		"-device", "i8042",
		// A guest that reboots ends the VMM; one that powers off leaves it alive.
		"-action", "reboot=shutdown,shutdown=pause,panic=none")
	switch accel {
	case accelKVM:
		c.add("-accel", "kvm", "-cpu", "host")
	default:
		c.add("-accel", fmt.Sprintf("tcg,thread=multi,tb-size=%d", translationMiB), "-cpu", "max")
	}
	smp := fmt.Sprintf("%d,sockets=1,cores=%d,threads=1", s.Machine.VCPUCount, s.Machine.VCPUCount)
	if s.Machine.SMT && s.Machine.VCPUCount > 1 {
		smp = fmt.Sprintf("%d,sockets=1,cores=%d,threads=2", s.Machine.VCPUCount, s.Machine.VCPUCount/2)
	}
	c.add("-smp", smp, "-m", fmt.Sprintf("%dM", s.Machine.MemSizeMiB),
		// vhost-user needs memory that can be shared.
		"-object", fmt.Sprintf("memory-backend-memfd,id=memory,size=%dM,share=on", s.Machine.MemSizeMiB))
}

func nodeName(drive int) string { return "drive" + strconv.Itoa(drive) }

// fileNode describes the file behind a drive to QEMU.
func fileNode(d api.Drive, name string) (map[string]any, error) {
	info, err := os.Stat(*d.PathOnHost)
	if err != nil {
		return nil, err
	}
	driver := "file"
	if info.Mode()&os.ModeDevice != 0 {
		driver = "host_device"
	}
	return map[string]any{
		"driver":    driver,
		"node-name": name,
		"filename":  *d.PathOnHost,
		"read-only": *d.IsReadOnly,
		"locking":   "off", // Firecracker takes no lock either
		"aio":       "threads",
		// Firecracker's cache type Unsafe: the guest's flushes do nothing.
		"cache": map[string]any{"direct": false, "no-flush": d.CacheType == "Unsafe"},
	}, nil
}

const sectorSize = 512

// diskSize is the size in bytes of a file or block device.
func diskSize(path string) (int64, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	return f.Seek(0, 2)
}

// firstFile is the name of the node of the file that drive k has at boot.
func firstFile(k int) string { return fmt.Sprintf("file%d", k) }

func (c *command) drive(k int, d api.Drive) error {
	file, err := fileNode(d, firstFile(k))
	if err != nil {
		return err
	}
	size, err := diskSize(*d.PathOnHost)
	if err != nil {
		return err
	}
	raw := map[string]any{"driver": "raw", "node-name": nodeName(k), "read-only": *d.IsReadOnly, "file": firstFile(k)}
	if size%sectorSize != 0 {
		// Firecracker leaves out a last sector that is not whole; QEMU would fill it up.
		raw["size"] = size - size%sectorSize
	}
	for _, node := range []map[string]any{file, raw} {
		text, err := json.Marshal(node)
		if err != nil {
			return err
		}
		c.add("-blockdev", string(text))
	}
	c.device("virtio-blk-device", "drive="+nodeName(k), "id=disk"+strconv.Itoa(k), "serial="+driveSerial(*d.PathOnHost),
		"num-queues=1", "queue-size=256", "discard=off", "write-zeroes=off",
		// A failed request is the guest's to deal with, as under Firecracker; a full host disk would stop the guest otherwise.
		"rerror=report", "werror=report")
	return nil
}

// driveSerial is what Firecracker gives as a drive's serial: device, device type and inode in decimal, 20 bytes at most.
func driveSerial(path string) string {
	var st unix.Stat_t
	if unix.Stat(path, &st) != nil {
		return ""
	}
	const longest = 20 // VIRTIO_BLK_ID_BYTES
	s := fmt.Sprintf("%d%d%d", st.Dev, st.Rdev, st.Ino)
	return s[:min(len(s), longest)]
}

func (c *command) nic(k int, n api.NICSpec) error {
	// Without an address Firecracker lets the guest choose one; QEMU would give every guest the same.
	mac, err := randomMAC()
	if err != nil {
		return err
	}
	if n.GuestMAC != nil {
		mac = *n.GuestMAC
	}
	id := "net" + strconv.Itoa(k)
	c.add("-netdev", fmt.Sprintf("tap,id=%s,fd=%d", id, c.inherit(n.Tap)))
	properties := []string{"netdev=" + id, "mac=" + mac}
	if n.MTU != nil {
		properties = append(properties, fmt.Sprintf("host_mtu=%d", *n.MTU))
	}
	c.device("virtio-net-device", properties...)
	return nil
}

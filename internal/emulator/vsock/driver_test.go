package vsock

import (
	"context"
	"encoding/binary"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/runcvm/runcvm/internal/emulator/vsock/vhostuser"
)

const (
	testCID   = 42
	guestBase = 0x100000 // where the guest sees its memory, and where "QEMU" does
	userBase  = 0x7f0000000000
	guestMem  = 16 << 20
	timeout   = 20 * time.Second
)

// layout says how the driver uses the device.
type layout struct {
	eventIdx bool
	size     int  // descriptors of a ring
	oneDesc  bool // header and payload in one descriptor, as in new kernels, or in one each, as in old ones
	rxRoom   int  // payload that one receive buffer holds
}

var linux61 = layout{eventIdx: true, size: 128, rxRoom: 4096}

// driver is a guest's driver, and QEMU in front of it, for one device.
type driver struct {
	t      testing.TB
	layout layout
	conn   int
	memfd  int
	mem    []byte
	bump   int // memory handed out
	rx, tx *ring

	deliver func(packet)
	packets chan packet // what deliver gets unless it is set
	stopped atomic.Bool
	rxMu    sync.Mutex
	holding bool
	held    []int

	discarded atomic.Int32
	done      sync.WaitGroup
	txMu      sync.Mutex
	freeTX    []int
}

type packet struct {
	header
	payload []byte
}

// newDevice makes a device that serves until the test ends.
func newDevice(t testing.TB) *Device {
	t.Helper()
	dir := t.TempDir()
	d, err := Listen(Config{GuestCID: testCID, UDSPath: filepath.Join(dir, "v.sock"), BackendSocket: filepath.Join(dir, "b.sock"),
		Logger: slog.New(slog.NewTextHandler(t.Output(), nil))})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func (d *Device) serve(t testing.TB) <-chan error {
	served := make(chan error, 1)
	go func() { served <- d.Serve(context.Background()) }()
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return served
}

// newDriver connects to the device and starts its rings.
func newDriver(t testing.TB, dev *Device, l layout) *driver {
	t.Helper()
	d := connectDriver(t, dev.cfg.BackendSocket, l)
	d.negotiate()
	d.start()
	return d
}

func connectDriver(t testing.TB, path string, l layout) *driver {
	t.Helper()
	d := &driver{t: t, layout: l, packets: make(chan packet, 1<<16)}
	d.deliver = func(p packet) { d.packets <- p }
	var err error
	if d.conn, err = unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
		t.Fatal(err)
	}
	if err := unix.Connect(d.conn, &unix.SockaddrUnix{Name: path}); err != nil {
		t.Fatal(err)
	}
	if d.memfd, err = unix.MemfdCreate("guest", unix.MFD_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	if err := unix.Ftruncate(d.memfd, guestMem); err != nil {
		t.Fatal(err)
	}
	if d.mem, err = unix.Mmap(d.memfd, 0, guestMem, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != nil {
		t.Fatal(err)
	}
	room := l.rxRoom
	d.rx, d.tx = d.newRing(rxQueue, packetHeaderSize+room), d.newRing(txQueue, packetHeaderSize+maxPayload)
	t.Cleanup(d.close)
	return d
}

func (d *driver) alloc(n int) int {
	off := d.bump
	d.bump += (n + 63) &^ 63
	if d.bump > guestMem {
		d.t.Fatal("the guest's memory is full")
	}
	return off
}

func (d *driver) eventfd() (*os.File, int) {
	fd, err := unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
	if err != nil {
		d.t.Fatal(err)
	}
	return os.NewFile(uintptr(fd), "eventfd"), fd
}

// close vanishes as QEMU would when it is killed.
func (d *driver) close() {
	if d.stopped.Swap(true) {
		return
	}
	_ = unix.Close(d.conn)
	signalFile(d.rx.call)
	d.done.Wait()
	for _, f := range []*os.File{d.rx.kick, d.rx.call, d.tx.kick, d.tx.call} {
		_ = f.Close()
	}
	_ = unix.Munmap(d.mem)
	_ = unix.Close(d.memfd)
}

func signalFile(f *os.File) { _, _ = f.Write([]byte{1, 0, 0, 0, 0, 0, 0, 0}) }

// send writes a vhost-user message.
func (d *driver) send(r vhostuser.Request, flags uint32, payload []byte, fds ...int) {
	d.t.Helper()
	b := binary.NativeEndian.AppendUint32(nil, uint32(r))
	b = binary.NativeEndian.AppendUint32(b, 1|flags)
	b = binary.NativeEndian.AppendUint32(b, uint32(len(payload)))
	var rights []byte
	if len(fds) > 0 {
		rights = unix.UnixRights(fds...)
	}
	if err := unix.Sendmsg(d.conn, append(b, payload...), rights, nil, unix.MSG_NOSIGNAL); err != nil {
		d.t.Fatalf("send request %d: %v", r, err)
	}
}

// reply reads the answer to a message.
func (d *driver) reply(r vhostuser.Request) []byte {
	d.t.Helper()
	b := make([]byte, 1024)
	n, err := unix.Read(d.conn, b)
	if err != nil || n < 12 || vhostuser.Request(binary.NativeEndian.Uint32(b)) != r {
		d.t.Fatalf("answer to request %d: % x, %v", r, b[:max(n, 0)], err)
	}
	return b[12:n]
}

// ask sends a message and waits until it was carried out.
func (d *driver) ask(r vhostuser.Request, payload []byte, fds ...int) {
	d.t.Helper()
	d.send(r, 1<<3, payload, fds...)
	if ack := d.reply(r); len(ack) != 8 || binary.NativeEndian.Uint64(ack) != 0 {
		d.t.Fatalf("request %d is answered by % x", r, ack)
	}
}

func words32(w ...uint32) (b []byte) {
	for _, v := range w {
		b = binary.NativeEndian.AppendUint32(b, v)
	}
	return b
}

func words64(w ...uint64) (b []byte) {
	for _, v := range w {
		b = binary.NativeEndian.AppendUint64(b, v)
	}
	return b
}

func (d *driver) negotiate() {
	d.t.Helper()
	d.send(vhostuser.GetFeatures, 0, nil)
	offered := binary.NativeEndian.Uint64(d.reply(vhostuser.GetFeatures))
	if want := uint64(1<<32 | 1<<30 | 1<<29); offered != want {
		d.t.Fatalf("features %#x, want %#x", offered, want)
	}
	d.send(vhostuser.GetProtocolFeatures, 0, nil)
	d.send(vhostuser.SetProtocolFeatures, 0, d.reply(vhostuser.GetProtocolFeatures))
	d.ask(vhostuser.SetOwner, nil)
	features := uint64(1<<32 | 1<<30)
	if d.layout.eventIdx {
		features |= 1 << 29
	}
	d.ask(vhostuser.SetFeatures, words64(features))
}

func (d *driver) memTable() []byte {
	return append(words32(1, 0), words64(guestBase, guestMem, userBase, 0)...)
}

// start gives the device both rings, from the place where they were stopped.
func (d *driver) start() {
	d.t.Helper()
	d.ask(vhostuser.SetMemTable, d.memTable(), d.memfd)
	for _, r := range []*ring{d.rx, d.tx} {
		i := uint32(r.index)
		d.ask(vhostuser.SetVringNum, words32(i, uint32(d.layout.size)))
		d.ask(vhostuser.SetVringBase, words32(i, uint32(r.lastUsed)))
		d.ask(vhostuser.SetVringAddr, append(words32(i, 0),
			words64(userBase+uint64(r.descOff), userBase+uint64(r.usedOff), userBase+uint64(r.availOff), 0)...))
		d.ask(vhostuser.SetVringKick, words64(uint64(i)), r.kickEvent)
		d.ask(vhostuser.SetVringCall, words64(uint64(i)), r.callEventfd)
	}
	for i := range d.rx.bufs {
		if d.rx.availIdx < uint16(len(d.rx.bufs)) {
			d.rx.post(i, len(d.rx.bufs[i]), true)
			d.freeTX = append(d.freeTX, i)
		}
	}
	for i := range uint32(2) {
		d.ask(vhostuser.SetVringEnable, words32(i, 1))
	}
	d.done.Add(1)
	go d.receive()
}

// stop takes both rings back, as QEMU does when the guest is paused. Nothing must be on its way.
func (d *driver) stop() {
	d.t.Helper()
	for i := range uint32(2) {
		d.send(vhostuser.GetVringBase, 0, words32(i, 0))
		d.reply(vhostuser.GetVringBase)
	}
}

func (d *driver) receive() {
	defer d.done.Done()
	for !d.stopped.Load() {
		id, n, ok := d.rx.next()
		if !ok {
			continue
		}
		if n == 0 { // a buffer that the device would not take
			d.discarded.Add(1)
			continue
		}
		b := d.rx.bufs[id/2]
		var p packet
		p.decode((*[packetHeaderSize]byte)(b))
		if n != packetHeaderSize+int(p.len) {
			d.t.Errorf("%d bytes were used for a packet of %d", n, p.len)
		}
		p.payload = append([]byte(nil), b[packetHeaderSize:n]...)
		d.rxMu.Lock()
		if d.holding {
			d.held = append(d.held, id/2)
		} else {
			d.rx.post(id/2, len(b), true)
		}
		d.rxMu.Unlock()
		d.deliver(p)
	}
}

// transmit sends a packet. Credit fields are the caller's.
func (d *driver) transmit(h header, payload []byte) {
	h.len = uint32(len(payload))
	d.transmitRaw(h, payload)
}

func (d *driver) transmitRaw(h header, payload []byte) {
	d.txMu.Lock()
	defer d.txMu.Unlock()
	i := d.takeTX()
	h.encode((*[packetHeaderSize]byte)(d.tx.bufs[i]))
	copy(d.tx.bufs[i][packetHeaderSize:], payload)
	d.tx.post(i, packetHeaderSize+len(payload), false)
}

func (d *driver) takeTX() int {
	for len(d.freeTX) == 0 {
		if d.stopped.Load() {
			return 0
		}
		if id, n, ok := d.tx.next(); ok {
			if n != 0 {
				d.t.Errorf("the device says that it wrote %d bytes to a packet to send", n)
			}
			d.freeTX = append(d.freeTX, id/2)
		}
	}
	i := d.freeTX[0]
	d.freeTX = d.freeTX[1:]
	return i
}

// op sends a packet without payload from a guest's port to a host's, with a lot of credit.
func (d *driver) op(op uint16, guest, host uint32) { d.opFlags(op, guest, host, 0) }

func (d *driver) opFlags(op uint16, guest, host, flags uint32) {
	h := d.head(op, guest, host)
	h.flags = flags
	d.transmit(h, nil)
}

func (d *driver) head(op uint16, guest, host uint32) header {
	return header{srcCID: testCID, dstCID: hostCID, srcPort: guest, dstPort: host, typ: typeStream, op: op, bufAlloc: 1 << 20}
}

// write sends data, which must fit into the credit that the device has given.
func (d *driver) write(guest, host uint32, data []byte) { d.transmit(d.head(opRW, guest, host), data) }

// expect waits for the next packet and checks whose it is.
func (d *driver) expect(op uint16, guest, host uint32) packet {
	d.t.Helper()
	select {
	case p := <-d.packets:
		want := header{srcCID: hostCID, dstCID: testCID, srcPort: host, dstPort: guest, typ: typeStream, op: op,
			len: p.len, flags: p.flags, bufAlloc: p.bufAlloc, fwdCnt: p.fwdCnt}
		if p.header != want {
			d.t.Fatalf("packet %+v, want %+v", p.header, want)
		}
		return p
	case <-time.After(timeout):
		d.t.Fatalf("no packet, want operation %d from port %d to %d", op, host, guest)
	}
	panic("not reached")
}

// silent makes sure that the device has nothing to say: what it sends after a probe comes after all it had before.
func (d *driver) silent() {
	d.t.Helper()
	const probe = 99999
	d.op(opRW, probe, probe)
	d.expect(opRst, probe, probe)
}

// holdBuffers keeps back the buffers that the device has used from now on; giveBuffers gives them to it again.
func (d *driver) holdBuffers() {
	d.rxMu.Lock()
	defer d.rxMu.Unlock()
	d.holding = true
}

func (d *driver) giveBuffers() {
	d.rxMu.Lock()
	defer d.rxMu.Unlock()
	d.holding = false
	for _, i := range d.held {
		d.rx.post(i, len(d.rx.bufs[i]), true)
	}
	d.held = nil
}

// resume starts the rings again after stop.
func (d *driver) resume() {
	d.t.Helper()
	for _, r := range []*ring{d.rx, d.tx} {
		i := uint32(r.index)
		d.ask(vhostuser.SetVringNum, words32(i, uint32(d.layout.size)))
		d.ask(vhostuser.SetVringBase, words32(i, uint32(get16(r.used, 2))))
		d.ask(vhostuser.SetVringAddr, append(words32(i, 0),
			words64(userBase+uint64(r.descOff), userBase+uint64(r.usedOff), userBase+uint64(r.availOff), 0)...))
		d.ask(vhostuser.SetVringKick, words64(uint64(i)), r.kickEvent)
		d.ask(vhostuser.SetVringCall, words64(uint64(i)), r.callEventfd)
		d.ask(vhostuser.SetVringEnable, words32(i, 1))
	}
}

// giveBuffersAgain makes these receive buffers available, and ends holding.
func (d *driver) giveBuffersAgain(ids ...int) {
	d.rxMu.Lock()
	defer d.rxMu.Unlock()
	d.holding, d.held = false, nil
	for _, i := range ids {
		d.rx.post(i, len(d.rx.bufs[i]), true)
	}
}

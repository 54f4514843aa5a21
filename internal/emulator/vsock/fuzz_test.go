package vsock

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/runcvm/runcvm/internal/emulator/vsock/vhostuser"
)

// The fuzzed ring: 8 descriptors each for both queues at fixed places in a guest's memory of 64 KiB, which the input fills from
// its start; the rest are zeros.
const (
	fuzzMem  = 64 << 10
	fuzzSize = 8
	fuzzRing = 16*fuzzSize + 64 + 128 // descriptors, available, used
	fuzzData = 2 * fuzzRing
	fuzzPort = 80
)

// fuzzMemory is one guest's memory, used again for each input.
type fuzzMemory struct {
	fd    int
	bytes []byte
}

func newFuzzMemory(f *testing.F) *fuzzMemory {
	fd, err := unix.MemfdCreate("guest", unix.MFD_CLOEXEC)
	if err == nil {
		err = unix.Ftruncate(fd, fuzzMem)
	}
	if err != nil {
		f.Fatal(err)
	}
	b, err := unix.Mmap(fd, 0, fuzzMem, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		f.Fatal(err)
	}
	return &fuzzMemory{fd, b}
}

// seedRing is a memory in which the guest has packets to send and buffers to receive, at most 7 of each.
func seedRing(buffers int, packets ...packet) []byte {
	le := binary.LittleEndian
	b := make([]byte, fuzzData, fuzzMem)
	desc := func(base, i int, addr uint64, size int, flags, next uint16) {
		d := b[base+16*i:]
		le.PutUint64(d, addr)
		le.PutUint32(d[8:], uint32(size))
		le.PutUint16(d[12:], flags)
		le.PutUint16(d[14:], next)
	}
	avail := func(base, i int, head uint16) {
		a := b[base+16*fuzzSize:]
		le.PutUint16(a[4+2*i:], head)
		le.PutUint16(a[2:], uint16(i+1))
	}
	for i := range buffers {
		desc(0, i, uint64(fuzzMem-(i+1)*4096), 4096, 2, 0)
		avail(0, i, uint16(i))
	}
	for i, p := range packets {
		var h [packetHeaderSize]byte
		p.len = uint32(len(p.payload))
		p.encode(&h)
		at := uint64(len(b))
		b = append(append(b, h[:]...), p.payload...)
		if len(p.payload) == 0 {
			desc(fuzzRing, i, at, packetHeaderSize, 0, 0)
			avail(fuzzRing, i, uint16(i))
			continue
		}
		desc(fuzzRing, i, at, packetHeaderSize, 1, 7)
		desc(fuzzRing, 7, at+packetHeaderSize, len(p.payload), 0, 0)
		avail(fuzzRing, i, uint16(i))
	}
	return b
}

// FuzzRing gives the device a guest's memory of any content: rings, descriptors, packet headers.
func FuzzRing(f *testing.F) {
	head := func(op uint16, flags uint32) packet {
		return packet{header: header{srcCID: testCID, dstCID: hostCID, srcPort: 1, dstPort: fuzzPort, typ: typeStream, op: op, flags: flags,
			bufAlloc: 1 << 16}}
	}
	data := head(opRW, 0)
	data.payload = []byte("hello")
	f.Add(seedRing(7, head(opRequest, 0), head(opCreditRequest, 0), data, head(opShutdown, 2), head(opShutdown, 1)))
	f.Add(seedRing(7, head(opRequest, 0), head(opShutdown, 3), head(opRst, 0), head(opRst, 0), head(opResponse, 0)))
	f.Add(seedRing(1, data, head(opCreditUpdate, 0), head(99, 0)))
	f.Add(seedRing(0, head(opRequest, 0), head(opRst, 0), head(opRequest, 0), data))
	f.Add([]byte{})

	mem := newFuzzMemory(f)
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > fuzzMem {
			return
		}
		n := copy(mem.bytes, b)
		clear(mem.bytes[n:])
		d := fuzzDevice(t, dir, mem)
		defer func() {
			if err := d.Close(); err != nil {
				t.Fatal(err)
			}
		}()
		l, err := listenUnix(fmt.Sprintf("%s_%d", d.cfg.UDSPath, fuzzPort))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = l.close() }()
		var programs []int
		for range 4 {
			if err := d.transfer(); err != nil {
				d.fail(err)
			}
			checkDevice(t, d)
			for {
				fd, err := accept(l.fd)
				if err != nil {
					break
				}
				programs = append(programs, fd)
				_, _ = unix.Write(fd, make([]byte, 5000))
			}
			if err := d.poll.wait(true); err != nil {
				t.Fatal(err)
			}
		}
		for _, fd := range programs {
			_ = unix.Close(fd)
		}
		if err := d.poll.wait(true); err != nil {
			t.Fatal(err)
		}
		if err := d.transfer(); err != nil {
			d.fail(err)
		}
		checkDevice(t, d)
	})
}

// fuzzDevice is a device with running rings and nobody in Serve.
func fuzzDevice(t *testing.T, dir string, mem *fuzzMemory) *Device {
	d, err := Listen(Config{GuestCID: testCID, UDSPath: filepath.Join(dir, "v"), BackendSocket: filepath.Join(dir, "b")})
	if err != nil {
		t.Fatal(err)
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	_ = unix.Close(pair[1])
	d.vhostConn = vhostuser.NewConn(pair[0])
	d.vhost = vhostuser.NewBackend(d.vhostConn, d, numQueues, vhostuser.FeatureVersion1|vhostuser.FeatureEventIdx, nil)
	ask := func(r vhostuser.Request, payload []byte, fds ...int) {
		if err := d.vhost.Handle(&vhostuser.Message{Request: r, Payload: payload, FDs: fds}); err != nil {
			t.Fatal(err)
		}
	}
	memory, err := unix.FcntlInt(uintptr(mem.fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	ask(vhostuser.SetFeatures, words64(1<<32|1<<29))
	ask(vhostuser.SetMemTable, append(words32(1, 0), words64(0, fuzzMem, 0, 0)...), memory)
	for i := range uint32(numQueues) {
		base := uint64(i) * fuzzRing
		ask(vhostuser.SetVringNum, words32(i, fuzzSize))
		ask(vhostuser.SetVringAddr, append(words32(i, 0), words64(base, base+16*fuzzSize+64, base+16*fuzzSize, 0)...))
		kick, err := unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
		if err != nil {
			t.Fatal(err)
		}
		ask(vhostuser.SetVringKick, words64(uint64(i)), kick)
	}
	d.active = true
	return d
}

// checkDevice checks what must hold whatever a guest does.
func checkDevice(t *testing.T, d *Device) {
	m := d.mux
	if d.broken != nil && (len(m.conns) != 0 || len(m.rxq) != 0 || d.active) {
		t.Fatalf("the device goes on after %v", d.broken)
	}
	if len(m.conns) > maxConnections || m.rsts > maxRsts {
		t.Fatalf("%d connections, %d RSTs", len(m.conns), m.rsts)
	}
	rsts, queued := 0, map[*conn]bool{}
	for _, it := range m.rxq {
		if it.conn == nil {
			rsts++
		} else if queued[it.conn] || m.conns[it.key] != it.conn {
			t.Fatalf("connection %v is queued twice, or is none", it.key)
		} else {
			queued[it.conn] = true
		}
	}
	if rsts != m.rsts {
		t.Fatalf("%d RSTs, counted %d", rsts, m.rsts)
	}
	for key, c := range m.conns {
		if c.key != key || c.gone || c.queued != queued[c] || (c.pending != 0) != c.queued || c.tx.len() > txBufSize {
			t.Fatalf("connection %+v", c)
		}
	}
}

// FuzzMessage gives the device messages of any content, with descriptors. Each message of the input is: request, flags, number of
// descriptors and which, length of the payload, payload.
func FuzzMessage(f *testing.F) {
	seed := func(r vhostuser.Request, fds byte, payload []byte) []byte {
		return append([]byte{byte(r), 1 | 1<<3, fds, byte(len(payload))}, payload...)
	}
	const one, eventfd = 1, 4
	var start []byte
	start = append(start, seed(vhostuser.SetProtocolFeatures, 0, words64(1<<3|1<<9))...)
	start = append(start, seed(vhostuser.SetFeatures, 0, words64(1<<32|1<<29))...)
	start = append(start, seed(vhostuser.SetMemTable, one, append(words32(1, 0), words64(0, fuzzMem, 0, 0)...))...)
	for i := range uint32(numQueues) {
		start = append(start, seed(vhostuser.SetVringNum, 0, words32(i, 8))...)
		start = append(start, seed(vhostuser.SetVringBase, 0, words32(i, 0))...)
		start = append(start, seed(vhostuser.SetVringAddr, 0, append(words32(i, 0), words64(0, 512, 1024, 0)...))...)
		start = append(start, seed(vhostuser.SetVringCall, one|eventfd, words64(uint64(i)))...)
		start = append(start, seed(vhostuser.SetVringErr, one|eventfd, words64(uint64(i)))...)
		start = append(start, seed(vhostuser.SetVringKick, one|eventfd, words64(uint64(i)))...)
	}
	f.Add(start)
	f.Add(append(start, seed(vhostuser.SetMemTable, one, append(words32(1, 0), words64(0, fuzzMem/2, 0, fuzzMem/2)...))...))
	f.Add(append(start, seed(vhostuser.GetVringBase, 0, words32(0, 0))...))
	f.Add(seed(vhostuser.GetConfig, 0, append(words32(0, 8, 0), make([]byte, 8)...)))
	f.Add(seed(vhostuser.GetFeatures, 3, nil))

	mem := newFuzzMemory(f)
	event, err := unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
	if err != nil {
		f.Fatal(err)
	}
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, b []byte) {
		clear(mem.bytes)
		before := descriptors(t)
		d, err := Listen(Config{GuestCID: testCID, UDSPath: filepath.Join(dir, "v"), BackendSocket: filepath.Join(dir, "b")})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = d.Close() }() // where Serve panics
		conn, err := connectUnix(d.cfg.BackendSocket)
		if err != nil {
			t.Fatal(err)
		}
		for len(b) >= 4 {
			n := min(int(b[3]), len(b)-4)
			m := append(words32(uint32(b[0]), uint32(b[1]), uint32(n)), b[4:4+n]...)
			fd := mem.fd
			if b[2]&4 != 0 {
				fd = event
			}
			var rights []byte
			if fds := int(b[2] & 3); fds > 0 {
				rights = unix.UnixRights([]int{fd, fd, fd}[:fds]...)
			}
			if unix.Sendmsg(conn, m, rights, nil, unix.MSG_NOSIGNAL) != nil {
				break
			}
			b = b[4+n:]
		}
		_, _ = unix.SendmsgN(conn, b, nil, nil, unix.MSG_NOSIGNAL) // a piece of a message, or nothing
		_ = unix.Shutdown(conn, unix.SHUT_WR)
		_ = d.Serve(context.Background()) // ends with an error of the protocol or with the stream
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		_ = unix.Close(conn)
		if after := descriptors(t); after != before {
			t.Fatalf("%d descriptors, %d before", after, before)
		}
		if left, _ := os.ReadDir(dir); len(left) != 0 {
			t.Fatalf("files left: %v", left)
		}
	})
}

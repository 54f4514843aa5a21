package vsock

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/runcvm/runcvm/internal/emulator/vsock/vhostuser"
)

// A malformed chain is thrown away, and everything else goes on (Firecracker v1.16, vsock/device.rs: process_tx).
func TestMalformedChainsFromTheGuest(t *testing.T) {
	w := newWorld(t, linux61)
	c, host := w.open(5000)
	const next, writable, indirect = 1, 2, 4
	r := w.tx
	for name, lay := range map[string]func(i, off int){
		"loop of one": func(i, off int) { r.setDesc(i, off, 10, next, uint16(i)) },
		"loop of two": func(i, off int) {
			r.setDesc(i, off, 10, next, uint16(i+1))
			r.setDesc(i+1, off, 10, next, uint16(i))
		},
		"next beyond the ring":     func(i, off int) { r.setDesc(i, off, 44, next, 128) },
		"address beyond memory":    func(i, _ int) { r.setDesc(i, guestMem, 44, 0, 0) },
		"end beyond memory":        func(i, _ int) { r.setDesc(i, guestMem-44, 45, 0, 0) },
		"address before memory":    func(i, _ int) { r.setDesc(i, -1, 44, 0, 0) },
		"address that wraps":       func(i, _ int) { r.setDesc(i, -guestBase-1, 44, 0, 0) },
		"length of 4 GiB":          func(i, off int) { r.setDesc(i, off, 1<<32-1, 0, 0) },
		"for the device to write":  func(i, off int) { r.setDesc(i, off, 44, writable, 0) },
		"indirect":                 func(i, off int) { r.setDesc(i, off, 44, indirect, 0) },
		"without a byte":           func(i, off int) { r.setDesc(i, off, 0, 0, 0) },
		"shorter than a header":    func(i, off int) { r.setDesc(i, off, 43, 0, 0) },
		"shorter than its payload": func(i, off int) { r.setDesc(i, off, 44+99, 0, 0) },
	} {
		w.txMu.Lock()
		i := w.takeTX()
		h := w.head(opRW, 5000, host)
		h.len = 100
		h.encode((*[packetHeaderSize]byte)(r.bufs[i]))
		lay(2*i, r.offset(i))
		r.publish(uint16(2 * i))
		w.txMu.Unlock()
		w.silent()
		w.write(5000, host, []byte(name))
		read(t, c, name)
	}
	// A payload beyond the limit, in a chain that has it.
	w.txMu.Lock()
	i := w.takeTX()
	h := w.head(opRW, 5000, host)
	h.len = maxPayload + 1
	h.encode((*[packetHeaderSize]byte)(r.bufs[i]))
	r.setDesc(2*i, r.offset(i), packetHeaderSize+2*maxPayload, 0, 0)
	r.publish(uint16(2 * i))
	w.txMu.Unlock()
	w.silent()
	// A packet in pieces of one byte and of none, in the first 46 descriptors, which all are the driver's now.
	w.txMu.Lock()
	for r.lastUsed != r.availIdx {
		if id, _, ok := r.next(); ok {
			w.freeTX = append(w.freeTX, id/2)
		}
	}
	h = w.head(opRW, 5000, host)
	h.len = 1
	h.encode((*[packetHeaderSize]byte)(r.bufs[0]))
	r.bufs[0][44] = 'x'
	for j := range 44 {
		r.setDesc(j, r.offset(0)+j, 1, next, uint16(j+1))
	}
	r.setDesc(44, 0, 0, next, 45)
	r.setDesc(45, r.offset(0)+44, 1, 0, 0)
	r.publish(0)
	w.txMu.Unlock()
	read(t, c, "x")
}

func TestMalformedBuffersOfTheGuest(t *testing.T) {
	w := newWorld(t, layout{eventIdx: true, size: 4, rxRoom: 100})
	r := w.rx
	for name, lay := range map[string]func(){
		"loop":                   func() { r.setDesc(0, r.offset(0), 10, 3, 0) },
		"outside of memory":      func() { r.setDesc(0, guestMem, 4096, 2, 0) },
		"for the device to read": func() { r.setDesc(0, r.offset(0), 4096, 0, 0) },
		"room for a header only": func() { r.setDesc(0, r.offset(0), packetHeaderSize, 2, 0) },
		"without a byte":         func() { r.setDesc(0, r.offset(0), 0, 2, 0) },
	} {
		before := w.discarded.Load()
		w.holdBuffers()
		for range r.bufs {
			w.op(opRW, 1, 2)
			w.expect(opRst, 1, 2)
		}
		w.rxMu.Lock()
		lay()
		r.publish(0)
		r.post(1, len(r.bufs[1]), true)
		w.rxMu.Unlock()
		w.op(opRW, 3, 4)
		w.expect(opRst, 3, 4)
		if got := w.discarded.Load() - before; got != 1 {
			t.Errorf("%s: %d buffers were refused", name, got)
		}
		w.giveBuffersAgain(0, 1)
	}
}

// A broken ring stops the device: connections are closed, programs refused, QEMU told, and Serve goes on until QEMU ends.
func TestBrokenRings(t *testing.T) {
	for name, harm := range map[string]func(r *ring){
		"too many chains": func(r *ring) { put16(r.avail, 2, r.availIdx+uint16(r.d.layout.size)+1) },
		"a chain beyond the ring": func(r *ring) {
			binary.LittleEndian.PutUint16(r.avail[4+2*(int(r.availIdx)%r.d.layout.size):], uint16(r.d.layout.size))
			r.availIdx++
			put16(r.avail, 2, r.availIdx)
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, linux61)
			c, _ := w.open(5000)
			failed, fd := w.eventfd()
			defer failed.Close()
			w.ask(vhostuser.SetVringErr, words64(txQueue), fd)
			harm(w.tx)
			signalFile(w.tx.kick)
			closed(t, c)
			if _, err := failed.Read(make([]byte, 8)); err != nil {
				t.Errorf("QEMU was not told: %v", err)
			}
			if _, err := net.Dial("unix", w.uds); err == nil {
				t.Error("a program can still connect")
			}
			w.send(vhostuser.GetFeatures, 0, nil)
			w.reply(vhostuser.GetFeatures)
			w.driver.close()
			if err := <-w.served; !errors.Is(err, vhostuser.ErrRing) {
				t.Errorf("Serve: %v", err)
			}
		})
	}
}

// Messages that break the protocol are refused, and what they brought along is closed.
func TestMalformedMessages(t *testing.T) {
	const needReply = 1 << 3
	file, err := os.Create(t.TempDir() + "/file")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	plain := int(file.Fd())
	table := func(w ...uint64) []byte { return append(words32(uint32(len(w)/4), 0), words64(w...)...) }
	for name, m := range map[string]struct {
		request vhostuser.Request
		payload []byte
		fds     []int // -1: the guest's memory, -2: an eventfd
	}{
		"unknown request":            {99, nil, nil},
		"a log of writes":            {6, words64(4096, 0), []int{-1}},
		"features not offered":       {vhostuser.SetFeatures, words64(1 << 26), nil},
		"features of 4 bytes":        {vhostuser.SetFeatures, words32(0), nil},
		"protocol features unknown":  {vhostuser.SetProtocolFeatures, words64(1 << 5), nil},
		"config written":             {vhostuser.SetConfig, make([]byte, 20), nil},
		"no memory":                  {vhostuser.SetMemTable, table(), nil},
		"memory without header":      {vhostuser.SetMemTable, words32(1), []int{-1}},
		"memory without descriptor":  {vhostuser.SetMemTable, table(0, 4096, 0, 0), nil},
		"memory with two":            {vhostuser.SetMemTable, table(0, 4096, 0, 0), []int{-1, -1}},
		"memory cut short":           {vhostuser.SetMemTable, table(0, 4096, 0, 0)[:39], []int{-1}},
		"nine regions":               {vhostuser.SetMemTable, table(make([]uint64, 36)...), []int{-1}},
		"region of no size":          {vhostuser.SetMemTable, table(0, 0, 0, 0), []int{-1}},
		"region beyond its file":     {vhostuser.SetMemTable, table(0, guestMem+1, 0, 0), []int{-1}},
		"region's offset beyond":     {vhostuser.SetMemTable, table(0, 4096, 0, guestMem), []int{-1}},
		"region's end wraps":         {vhostuser.SetMemTable, table(0, 1<<64-4096, 0, 8192), []int{-1}},
		"guest address wraps":        {vhostuser.SetMemTable, table(1<<64-1, 4096, 0, 0), []int{-1}},
		"front-end address wraps":    {vhostuser.SetMemTable, table(0, 4096, 1<<64-1, 0), []int{-1}},
		"memory that is an eventfd":  {vhostuser.SetMemTable, table(0, 4096, 0, 0), []int{-2}},
		"ring of 0":                  {vhostuser.SetVringNum, words32(0, 0), nil},
		"ring of 3":                  {vhostuser.SetVringNum, words32(0, 3), nil},
		"ring of 2048":               {vhostuser.SetVringNum, words32(0, 2048), nil},
		"queue 2":                    {vhostuser.SetVringNum, words32(2, 128), nil},
		"queue -1":                   {vhostuser.GetVringBase, words32(1<<32-1, 0), nil},
		"index beyond 16 bits":       {vhostuser.SetVringBase, words32(0, 1<<16), nil},
		"ring outside of memory":     {vhostuser.SetVringAddr, append(words32(0, 0), words64(1, 2, 3, 0)...), nil},
		"ring at the end of memory":  {vhostuser.SetVringAddr, append(words32(0, 0), words64(userBase+guestMem-16, userBase, userBase, 0)...), nil},
		"ring not aligned":           {vhostuser.SetVringAddr, append(words32(0, 0), words64(userBase+8, userBase, userBase, 0)...), nil},
		"used ring not aligned":      {vhostuser.SetVringAddr, append(words32(0, 0), words64(userBase, userBase+2, userBase, 0)...), nil},
		"available ring not aligned": {vhostuser.SetVringAddr, append(words32(0, 0), words64(userBase, userBase, userBase+1, 0)...), nil},
		"ring with a log":            {vhostuser.SetVringAddr, append(words32(0, 1), words64(userBase, userBase, userBase, 0)...), nil},
		"kick of no queue":           {vhostuser.SetVringKick, words64(7), []int{-2}},
		"kick without descriptor":    {vhostuser.SetVringKick, words64(0), nil},
		"kick with two":              {vhostuser.SetVringKick, words64(0), []int{-2, -2}},
		"kick by polling":            {vhostuser.SetVringKick, words64(1 << 8), nil},
		"kick that is a file":        {vhostuser.SetVringKick, words64(0), []int{plain}},
		"call without descriptor":    {vhostuser.SetVringCall, words64(0), nil},
	} {
		t.Run(name, func(t *testing.T) {
			dev := newDevice(t)
			dev.serve(t)
			d := connectDriver(t, dev.cfg.BackendSocket, linux61)
			d.negotiate()
			d.ask(vhostuser.SetMemTable, d.memTable(), d.memfd)
			d.ask(vhostuser.SetVringNum, words32(0, 128))
			var fds []int
			for _, fd := range m.fds {
				switch fd {
				case -1:
					fd = d.memfd
				case -2:
					fd = d.rx.kickEvent
				}
				fds = append(fds, fd)
			}
			before := descriptors(t)
			d.send(m.request, needReply, m.payload, fds...)
			reply := d.reply(m.request)
			if len(reply) != 8 || binary.NativeEndian.Uint64(reply) == 0 {
				t.Errorf("answered by % x, want a refusal", reply)
			}
			if after := descriptors(t); after != before {
				t.Errorf("%d descriptors, %d before", after, before)
			}
			d.send(vhostuser.GetFeatures, 0, nil)
			d.reply(vhostuser.GetFeatures)
		})
	}
}

// What is no message at all, or is refused without a way to say so, ends Serve.
func TestMessagesThatEndServe(t *testing.T) {
	long := words32(1, 1, 5000)
	for name, tc := range map[string]struct {
		b    []byte
		fds  int
		want error
	}{
		"version 0":        {words32(1, 0, 0), 0, vhostuser.ErrProtocol},
		"version 2":        {words32(1, 2, 0), 0, vhostuser.ErrProtocol},
		"a reply":          {words32(1, 1|4, 0), 0, vhostuser.ErrProtocol},
		"too long":         {long, 0, vhostuser.ErrProtocol},
		"unknown":          {words32(99, 1, 0), 0, vhostuser.ErrProtocol},
		"nine descriptors": {words32(1, 1, 0), 9, vhostuser.ErrProtocol},
		"cut off":          {words32(1, 1, 8, 0), 1, io.ErrUnexpectedEOF},
	} {
		t.Run(name, func(t *testing.T) {
			dev := newDevice(t)
			served := dev.serve(t)
			d := connectDriver(t, dev.cfg.BackendSocket, linux61)
			before := descriptors(t)
			fds := make([]int, tc.fds)
			for i := range fds {
				fds[i] = d.memfd
			}
			if err := unix.Sendmsg(d.conn, tc.b, unix.UnixRights(fds...), nil, 0); err != nil {
				t.Fatal(err)
			}
			if errors.Is(tc.want, io.ErrUnexpectedEOF) {
				_ = unix.Shutdown(d.conn, unix.SHUT_WR)
			}
			if err := <-served; !errors.Is(err, tc.want) {
				t.Errorf("Serve: %v, want %v", err, tc.want)
			}
			if err := dev.Close(); err != nil {
				t.Error(err)
			}
			if after := descriptors(t); after > before {
				t.Errorf("%d descriptors, %d before", after, before)
			}
		})
	}
}

func TestConfigSpace(t *testing.T) {
	dev := newDevice(t)
	dev.serve(t)
	d := connectDriver(t, dev.cfg.BackendSocket, linux61)
	cid := words64(testCID)
	for _, tc := range []struct {
		off, size uint32
		want      []byte
	}{
		{0, 8, cid}, {0, 4, cid[:4]}, {4, 4, cid[4:]}, {8, 0, nil},
		{0, 9, nil}, {8, 1, nil}, {1<<32 - 1, 8, nil}, {0, 1<<32 - 1, nil}, {257, 0, nil},
	} {
		d.send(vhostuser.GetConfig, 0, append(words32(tc.off, tc.size, 0), make([]byte, min(tc.size, 256))...))
		got := d.reply(vhostuser.GetConfig)
		if string(got[12:]) != string(tc.want) || int(binary.NativeEndian.Uint32(got[4:])) != len(tc.want) {
			t.Errorf("offset %d, size %d: % x", tc.off, tc.size, got)
		}
	}
	d.send(vhostuser.GetConfig, 0, []byte{1})
	if got := d.reply(vhostuser.GetConfig); strings.Trim(string(got), "\x00") != "" {
		t.Errorf("a request of one byte is answered by % x", got)
	}
}

// The guest's memory that goes away under the device's feet ends Serve, not the process.
func TestMemoryThatVanishes(t *testing.T) {
	w := newWorld(t, linux61)
	c, _ := w.open(5000)
	w.silent()
	w.stopped.Store(true) // the driver must not touch it either
	signalFile(w.rx.call)
	w.done.Wait()
	if err := unix.Ftruncate(w.memfd, 0); err != nil {
		t.Fatal(err)
	}
	signalFile(w.tx.kick)
	if err := <-w.served; err == nil || !strings.Contains(err.Error(), "has gone") {
		t.Errorf("Serve: %v", err)
	}
	if err := w.dev.Close(); err != nil {
		t.Error(err)
	}
	closed(t, c)
}

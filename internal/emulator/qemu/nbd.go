package qemu

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
)

// An nbdDisk lets QEMU read and write a file through a socket, by the network block device protocol
// (github.com/NetworkBlockDevice/nbd, doc/proto.md: fixed newstyle negotiation, simple replies).
//
// It is there for what QEMU's own file driver cannot do on a running guest: to tell the guest of the new size of a disk that
// is read-only, or whose file does not end on a sector. QEMU tells of a size only by a resize, and an NBD disk takes one to
// the size that it has.
type nbdDisk struct {
	file interface {
		io.ReaderAt
		io.WriterAt
		Sync() error
	}
	size  int64 // whole sectors
	write bool
	sync  bool // flushes reach the file
}

// The protocol's numbers.
const (
	nbdMagic       = 0x4e42444d41474943 // "NBDMAGIC"
	nbdOptMagic    = 0x49484156454F5054 // "IHAVEOPT"
	nbdReplyMagic  = 0x3e889045565a9
	nbdRequest     = 0x25609513
	nbdSimpleReply = 0x67446698

	nbdFlagFixed, nbdFlagNoZeroes = 1, 2 // of the handshake

	nbdOptExportName, nbdOptAbort, nbdOptInfo, nbdOptGo = 1, 2, 6, 7

	nbdRepAck, nbdRepInfo, nbdRepUnsupported = 1, 3, 1<<31 | 1

	nbdHasFlags, nbdSendFlush = 1, 4 // of the disk

	nbdRead, nbdWrite, nbdDisconnect, nbdFlush = 0, 1, 2, 3

	nbdEPERM, nbdEIO, nbdEINVAL, nbdENOSPC = 1, 5, 22, 28
)

const (
	// maxNBDOption bounds an option's data, and maxNBDRequest a request's, in bytes; QEMU's own limit is 32 MiB.
	maxNBDOption  = 64 << 10
	maxNBDRequest = 32 << 20
)

// serve answers one client until it goes.
func (d *nbdDisk) serve(conn net.Conn) error {
	r := bufio.NewReader(conn)
	if err := d.negotiate(conn, r); err != nil {
		return fmt.Errorf("negotiate: %w", err)
	}
	for {
		more, err := d.request(conn, r)
		if err != nil || !more {
			return err
		}
	}
}

func put(values ...any) []byte {
	var b []byte
	for _, v := range values {
		b, _ = binary.Append(b, binary.BigEndian, v) // numbers have a size
	}
	return b
}

func (d *nbdDisk) negotiate(w io.Writer, r io.Reader) error {
	if _, err := w.Write(put(uint64(nbdMagic), uint64(nbdOptMagic), uint16(nbdFlagFixed|nbdFlagNoZeroes))); err != nil {
		return err
	}
	var flags uint32
	if err := binary.Read(r, binary.BigEndian, &flags); err != nil {
		return err
	}
	for {
		var head struct {
			Magic       uint64
			Option, Len uint32
		}
		if err := binary.Read(r, binary.BigEndian, &head); err != nil {
			return err
		}
		if head.Magic != nbdOptMagic || head.Len > maxNBDOption {
			return fmt.Errorf("option %d of %d bytes", head.Option, head.Len)
		}
		if _, err := io.CopyN(io.Discard, r, int64(head.Len)); err != nil {
			return err
		}
		reply := func(kind uint32, data []byte) []byte {
			return append(put(uint64(nbdReplyMagic), head.Option, kind, uint32(len(data))), data...)
		}
		var answer []byte
		switch head.Option {
		case nbdOptGo, nbdOptInfo:
			answer = append(reply(nbdRepInfo, put(uint16(0), uint64(d.size), uint16(nbdHasFlags|nbdSendFlush))), reply(nbdRepAck, nil)...)
		case nbdOptExportName:
			answer = put(uint64(d.size), uint16(nbdHasFlags|nbdSendFlush))
			if flags&nbdFlagNoZeroes == 0 {
				answer = append(answer, make([]byte, 124)...)
			}
		case nbdOptAbort:
			return errors.New("the client gave up")
		default:
			answer = reply(nbdRepUnsupported, nil)
		}
		if _, err := w.Write(answer); err != nil {
			return err
		}
		if head.Option == nbdOptGo || head.Option == nbdOptExportName {
			return nil
		}
	}
}

// request serves one request; more is false when the client has said goodbye or gone.
func (d *nbdDisk) request(w io.Writer, r io.Reader) (more bool, err error) {
	var head struct {
		Magic       uint32
		Flags, Kind uint16
		Handle      uint64
		Offset      uint64
		Len         uint32
	}
	if err := binary.Read(r, binary.BigEndian, &head); err != nil {
		if errors.Is(err, io.EOF) {
			err = nil
		}
		return false, err
	}
	if head.Magic != nbdRequest || head.Len > maxNBDRequest {
		return false, fmt.Errorf("request %d of %d bytes", head.Kind, head.Len)
	}
	inside := head.Offset <= uint64(d.size) && uint64(head.Len) <= uint64(d.size)-head.Offset
	var code uint32
	var data []byte
	switch head.Kind {
	case nbdRead:
		if code = nbdEINVAL; inside {
			data, code = d.read(head.Offset, head.Len)
		}
	case nbdWrite:
		sent := make([]byte, head.Len)
		if _, err := io.ReadFull(r, sent); err != nil {
			return false, err
		}
		code = d.writeAt(sent, head.Offset, inside)
	case nbdFlush:
		if d.sync && d.file.Sync() != nil {
			code = nbdEIO
		}
	case nbdDisconnect:
		return false, nil
	default:
		code = nbdEINVAL
	}
	_, err = w.Write(append(put(uint32(nbdSimpleReply), code, head.Handle), data...))
	return err == nil, err
}

func (d *nbdDisk) read(offset uint64, length uint32) ([]byte, uint32) {
	data := make([]byte, length)
	if _, err := d.file.ReadAt(data, int64(offset)); err != nil {
		return nil, nbdEIO
	}
	return data, 0
}

func (d *nbdDisk) writeAt(data []byte, offset uint64, inside bool) uint32 {
	switch {
	case !d.write:
		return nbdEPERM
	case !inside:
		return nbdENOSPC
	}
	if _, err := d.file.WriteAt(data, int64(offset)); err != nil {
		return nbdEIO
	}
	return 0
}

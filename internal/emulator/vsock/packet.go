package vsock

import "encoding/binary"

// A packet is a header of 44 bytes, all little-endian, and its payload (virtio 1.1, 5.10.6):
//
//	 0 src_cid u64    8 dst_cid u64   16 src_port u32   20 dst_port u32   24 len u32   28 type u16   30 op u16
//	32 flags u32     36 buf_alloc u32   40 fwd_cnt u32
const packetHeaderSize = 44

// Operations (virtio 1.1, 5.10.6).
const (
	opRequest       = 1
	opResponse      = 2
	opRst           = 3
	opShutdown      = 4
	opRW            = 5
	opCreditUpdate  = 6
	opCreditRequest = 7
)

// Flags of a shutdown: what its sender will do no more.
const (
	shutdownReceive = 1
	shutdownSend    = 2
)

const (
	typeStream = 1
	hostCID    = 2
	// maxPayload is the most that a packet carries. Firecracker v1.16, vsock/mod.rs: MAX_PKT_BUF_SIZE.
	maxPayload = 64 << 10
)

// header is a packet's header.
type header struct {
	srcCID, dstCID   uint64
	srcPort, dstPort uint32
	len              uint32
	typ, op          uint16
	flags            uint32
	bufAlloc, fwdCnt uint32
}

func (h *header) decode(b *[packetHeaderSize]byte) {
	le := binary.LittleEndian
	h.srcCID, h.dstCID = le.Uint64(b[0:]), le.Uint64(b[8:])
	h.srcPort, h.dstPort = le.Uint32(b[16:]), le.Uint32(b[20:])
	h.len, h.typ, h.op = le.Uint32(b[24:]), le.Uint16(b[28:]), le.Uint16(b[30:])
	h.flags, h.bufAlloc, h.fwdCnt = le.Uint32(b[32:]), le.Uint32(b[36:]), le.Uint32(b[40:])
}

func (h *header) encode(b *[packetHeaderSize]byte) {
	le := binary.LittleEndian
	le.PutUint64(b[0:], h.srcCID)
	le.PutUint64(b[8:], h.dstCID)
	le.PutUint32(b[16:], h.srcPort)
	le.PutUint32(b[20:], h.dstPort)
	le.PutUint32(b[24:], h.len)
	le.PutUint16(b[28:], h.typ)
	le.PutUint16(b[30:], h.op)
	le.PutUint32(b[32:], h.flags)
	le.PutUint32(b[36:], h.bufAlloc)
	le.PutUint32(b[40:], h.fwdCnt)
}

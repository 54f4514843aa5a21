package qemu

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"
)

// nbdClient speaks as QEMU does.
type nbdClient struct {
	t    *testing.T
	conn net.Conn
}

func (c *nbdClient) read(n int) []byte {
	c.t.Helper()
	b := make([]byte, n)
	if _, err := io.ReadFull(c.conn, b); err != nil {
		c.t.Fatal(err)
	}
	return b
}

func (c *nbdClient) write(b []byte) {
	c.t.Helper()
	if _, err := c.conn.Write(b); err != nil {
		c.t.Fatal(err)
	}
}

// request returns the reply's error, and data of n bytes when there is none.
func (c *nbdClient) request(kind uint16, offset uint64, length uint32, data []byte, n int) (uint32, []byte) {
	c.t.Helper()
	c.write(append(put(uint32(nbdRequest), uint16(0), kind, uint64(7), offset, length), data...))
	head := c.read(16)
	if binary.BigEndian.Uint32(head) != nbdSimpleReply || binary.BigEndian.Uint64(head[8:]) != 7 {
		c.t.Fatalf("reply %x", head)
	}
	code := binary.BigEndian.Uint32(head[4:])
	if code != 0 {
		return code, nil
	}
	return 0, c.read(n)
}

func serveDisk(t *testing.T, d *nbdDisk) *nbdClient {
	t.Helper()
	ours, theirs := net.Pipe()
	served := make(chan error, 1)
	go func() { served <- d.serve(theirs) }()
	t.Cleanup(func() {
		ours.Close()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	c := &nbdClient{t: t, conn: ours}
	c.read(18)
	c.write(put(uint32(3)))
	const structuredReply = 8
	c.write(put(uint64(nbdOptMagic), uint32(structuredReply), uint32(0)))
	if b := c.read(20); binary.BigEndian.Uint32(b[12:]) != nbdRepUnsupported {
		t.Fatalf("structured replies: %x", b)
	}
	c.write(append(put(uint64(nbdOptMagic), uint32(nbdOptGo), uint32(6)), put(uint32(0), uint16(0))...))
	if b := c.read(20 + 12); binary.BigEndian.Uint64(b[22:]) != uint64(d.size) {
		t.Fatalf("export: %x", b)
	}
	c.read(20)
	return c
}

func testDisk(t *testing.T, write bool) (*nbdDisk, []byte) {
	t.Helper()
	content := bytes.Repeat([]byte("0123456789abcdef"), 3*sectorSize/16)
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, append(content, "tail"...), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return &nbdDisk{file: f, size: int64(len(content)), write: write, sync: true}, content
}

func TestServedDiskReadsAndWritesWithinItsSectors(t *testing.T) {
	d, content := testDisk(t, true)
	c := serveDisk(t, d)
	if code, got := c.request(nbdRead, 512, 1024, nil, 1024); code != 0 || !bytes.Equal(got, content[512:]) {
		t.Errorf("read: %d", code)
	}
	fresh := bytes.Repeat([]byte{'x'}, 512)
	if code, _ := c.request(nbdWrite, 1024, 512, fresh, 0); code != 0 {
		t.Errorf("write: %d", code)
	}
	if code, got := c.request(nbdRead, 1024, 512, nil, 512); code != 0 || !bytes.Equal(got, fresh) {
		t.Errorf("read back: %d", code)
	}
	for name, at := range map[string]uint64{"past the end": 1536, "across the end": 1100, "far away": 1 << 63, "wrapping": ^uint64(0)} {
		if code, _ := c.request(nbdRead, at, 512, nil, 0); code != nbdEINVAL {
			t.Errorf("read %s: %d", name, code)
		}
		if code, _ := c.request(nbdWrite, at, 512, fresh, 0); code != nbdENOSPC {
			t.Errorf("write %s: %d", name, code)
		}
	}
	if code, _ := c.request(nbdFlush, 0, 0, nil, 0); code != 0 {
		t.Errorf("flush: %d", code)
	}
	const trim = 4
	if code, _ := c.request(trim, 0, 512, nil, 0); code != nbdEINVAL {
		t.Errorf("trim: %d", code)
	}
	if info, err := d.file.(*os.File).Stat(); err != nil || info.Size() != int64(len(content))+4 {
		t.Errorf("the file has changed its size: %v %d", err, info.Size())
	}
}

func TestServedReadOnlyDiskRefusesWrites(t *testing.T) {
	d, _ := testDisk(t, false)
	c := serveDisk(t, d)
	if code, _ := c.request(nbdWrite, 0, 512, make([]byte, 512), 0); code != nbdEPERM {
		t.Errorf("write: %d", code)
	}
}

// oneWay is a client that sends what it has and takes every answer.
type oneWay struct {
	net.Conn
	in *bytes.Reader
}

func (c oneWay) Read(p []byte) (int, error)  { return c.in.Read(p) }
func (c oneWay) Write(p []byte) (int, error) { return len(p), nil }

// FuzzServedDisk sends anything in place of QEMU's requests: the file keeps its size, and nothing outside of the disk changes.
func FuzzServedDisk(f *testing.F) {
	hello := append(put(uint32(3)), put(uint64(nbdOptMagic), uint32(nbdOptGo), uint32(6), uint32(0), uint16(0))...)
	request := func(kind uint16, offset uint64, length uint32) []byte {
		return put(uint32(nbdRequest), uint16(0), kind, uint64(1), offset, length)
	}
	f.Add(append(bytes.Clone(hello), append(request(nbdRead, 0, 512), request(nbdDisconnect, 0, 0)...)...))
	f.Add(append(bytes.Clone(hello), append(request(nbdWrite, 1024, 512), make([]byte, 512)...)...))
	f.Add(append(bytes.Clone(hello), append(request(nbdWrite, 1535, 1), 'x')...))
	f.Add(append(bytes.Clone(hello), request(nbdRead, 1<<63, 1<<20)...))
	f.Add(append(put(uint32(1)), put(uint64(nbdOptMagic), uint32(nbdOptExportName), uint32(0))...))
	const size = 3 * sectorSize
	f.Fuzz(func(t *testing.T, in []byte) {
		content := append(make([]byte, size), "tail"...)
		d := &nbdDisk{file: memory{content}, size: size, write: true}
		_ = d.serve(oneWay{in: bytes.NewReader(in)}) // an error is one way to end
		if string(content[size:]) != "tail" {
			t.Fatalf("written beyond the disk's end: %q", content[size:])
		}
	})
}

// memory is a file in memory that panics where a file would grow.
type memory struct{ b []byte }

func (m memory) ReadAt(p []byte, at int64) (int, error) {
	return copy(p, m.b[at:at+int64(len(p))]), nil
}
func (m memory) WriteAt(p []byte, at int64) (int, error) {
	return copy(m.b[at:at+int64(len(p))], p), nil
}
func (m memory) Sync() error { return nil }

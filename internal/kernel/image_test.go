package kernel

import (
	"bytes"
	"compress/gzip"
	"context"
	"debug/elf"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
	"github.com/ulikunitz/xz"
	"github.com/ulikunitz/xz/lzma"
)

const testRelease = "6.1.0-9-cloud-amd64"

// tinyKernel is the smallest image that passes the checks: x86-64, one PT_LOAD, one PT_NOTE with the PVH entry, and the banner.
// The files in testdata hold its form with machine x86-64 and the note, compressed by the tools of the kernel's build.
func tinyKernel(machine elf.Machine, note bool) []byte {
	var b bytes.Buffer
	noteBytes := make([]byte, 12, 24)
	binary.LittleEndian.PutUint32(noteBytes, 4)
	binary.LittleEndian.PutUint32(noteBytes[4:], 8)
	kind := uint32(xenNotePhys32Entry)
	if !note {
		kind = 1
	}
	binary.LittleEndian.PutUint32(noteBytes[8:], kind)
	noteBytes = append(noteBytes, "Xen\x00"...)
	noteBytes = binary.LittleEndian.AppendUint64(noteBytes, 0x1000)
	banner := []byte("Linux version " + testRelease + " (someone) #1 SMP\x00")
	// Calls, which the x86 filter of xz rewrites.
	banner = append(banner, bytes.Repeat([]byte{0xe8, 0x10, 0x02, 0, 0}, 64)...)
	const headers = 64 + 2*56
	h := elf.Header64{Type: uint16(elf.ET_EXEC), Machine: uint16(machine), Version: 1, Phoff: 64, Ehsize: 64, Phentsize: 56, Phnum: 2,
		Shentsize: 64}
	copy(h.Ident[:], elf.ELFMAG+"\x02\x01\x01")
	noteOff := uint64(headers)
	loadOff := noteOff + uint64(len(noteBytes))
	progs := []elf.Prog64{
		{Type: uint32(elf.PT_LOAD), Off: loadOff, Vaddr: 0x1000, Filesz: uint64(len(banner)), Memsz: uint64(len(banner))},
		{Type: uint32(elf.PT_NOTE), Off: noteOff, Filesz: uint64(len(noteBytes)), Memsz: uint64(len(noteBytes))},
	}
	for _, v := range []any{h, progs} {
		if err := binary.Write(&b, binary.LittleEndian, v); err != nil {
			panic(err)
		}
	}
	b.Write(noteBytes)
	b.Write(banner)
	return b.Bytes()
}

func goodKernel() []byte { return tinyKernel(elf.EM_X86_64, true) }

// bzImageOf wraps a payload as the kernel's build does; size is the unpacked size that it appends, except to gzip.
func bzImageOf(payload []byte, size int) []byte {
	const sects = 4
	b := make([]byte, (sects+1)*512, (sects+1)*512+len(payload)+4)
	b[bootSetupSects] = sects
	copy(b[bootMagic:], "HdrS")
	binary.LittleEndian.PutUint16(b[bootProtocol:], 0x020f)
	binary.LittleEndian.PutUint16(b[bootKernelVersion:], 0x400)
	copy(b[0x400+512:], testRelease+" (someone) #1 SMP\x00")
	if size >= 0 {
		payload = binary.LittleEndian.AppendUint32(bytes.Clone(payload), uint32(size))
	}
	binary.LittleEndian.PutUint32(b[bootPayloadLength:], uint32(len(payload)))
	return append(b, payload...)
}

func compressed(t testing.TB, in []byte, open func(io.Writer) (io.WriteCloser, error)) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := open(&b)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(in); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func compressors() map[string]func(io.Writer) (io.WriteCloser, error) {
	return map[string]func(io.Writer) (io.WriteCloser, error){
		"gzip": func(w io.Writer) (io.WriteCloser, error) { return gzip.NewWriter(w), nil },
		"xz":   func(w io.Writer) (io.WriteCloser, error) { return xz.NewWriter(w) },
		"lzma": func(w io.Writer) (io.WriteCloser, error) { return lzma.NewWriter(w) },
		"zstd": func(w io.Writer) (io.WriteCloser, error) { return zstd.NewWriter(w) },
		"lz4": func(w io.Writer) (io.WriteCloser, error) {
			z := lz4.NewWriter(w)
			return z, z.Apply(lz4.LegacyOption(true))
		},
	}
}

// payloads is the good kernel in every compression.
func payloads(t testing.TB) map[string][]byte {
	t.Helper()
	out := map[string][]byte{}
	for name, open := range compressors() {
		out[name] = compressed(t, goodKernel(), open)
	}
	for name, file := range map[string]string{"bzip2": "tiny.bz2", "xz with the x86 filter": "tiny.x86.xz"} {
		b, err := os.ReadFile(filepath.Join("testdata", file))
		if err != nil {
			t.Fatal(err)
		}
		out[name] = b
	}
	return out
}

func unpack(image []byte) ([]byte, error) {
	b, err := parseBzImage(bytes.NewReader(image), int64(len(image)))
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	err = unpackPayload(context.Background(), &out, bytes.NewReader(image), b, imageLimits)
	return out.Bytes(), err
}

func TestEveryCompressionIsUnpacked(t *testing.T) {
	for name, payload := range payloads(t) {
		size := len(goodKernel())
		if name == "gzip" {
			size = -1
		}
		got, err := unpack(bzImageOf(payload, size))
		if err != nil || !bytes.Equal(got, goodKernel()) {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
	}
}

func TestBrokenImagesAreErrors(t *testing.T) {
	zst := payloads(t)["zstd"]
	good := bzImageOf(zst, len(goodKernel()))
	change := func(at int, b ...byte) []byte {
		c := bytes.Clone(good)
		copy(c[at:], b)
		return c
	}
	corrupt := func(name string) []byte {
		p := bytes.Clone(payloads(t)[name])
		for i := len(p) / 2; i < len(p)/2+8; i++ {
			p[i] ^= 0xa5
		}
		return bzImageOf(p, len(goodKernel()))
	}
	for name, tt := range map[string]struct {
		image []byte
		want  string
	}{
		"empty":                 {nil, "too short"},
		"short":                 {good[:bootHeaderSize-1], "too short"},
		"another file":          {bytes.Repeat([]byte("x"), 4096), "neither an ELF vmlinux nor an x86 bzImage"},
		"ancient":               {change(bootProtocol, 7, 2), "boot protocol 2.07"},
		"truncated":             {good[:len(good)-1], "truncated"},
		"no payload":            {change(bootPayloadLength, 0, 0, 0, 0), "truncated"},
		"payload far outside":   {change(bootPayloadOffset, 0xff, 0xff, 0xff, 0xff), "truncated"},
		"unknown compression":   {bzImageOf([]byte("????????????"), 4), "unknown compression"},
		"LZO":                   {bzImageOf([]byte("\x89LZO\x00\x0d\x0a\x1a"), 4), "LZO is not supported"},
		"half of a zstd stream": {bzImageOf(zst[:len(zst)/2], 4), "zstd payload"},
		"cut at a block's end":  {bzImageOf(payloads(t)["lz4"], len(goodKernel())+1), "announced"},
		"corrupt zstd":          {corrupt("zstd"), "zstd payload"},
		"corrupt xz":            {corrupt("xz"), "xz payload"},
		"corrupt bzip2":         {corrupt("bzip2"), "bzip2 payload"},
	} {
		if _, err := unpack(tt.image); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v; want %q", name, err, tt.want)
		}
	}
}

func TestImageThatGrowsWithoutEndIsRefused(t *testing.T) {
	bomb := compressed(t, nil, func(w io.Writer) (io.WriteCloser, error) {
		z, err := zstd.NewWriter(w, zstd.WithEncoderConcurrency(1))
		if err == nil {
			_, err = io.CopyN(z, zeros{}, maxImage+1)
		}
		return z, err
	})
	image := bzImageOf(bomb, 0)
	b, err := parseBzImage(bytes.NewReader(image), int64(len(image)))
	if err != nil {
		t.Fatal(err)
	}
	if err := unpackPayload(context.Background(), io.Discard, bytes.NewReader(image), b, imageLimits); err == nil ||
		!strings.Contains(err.Error(), "512 MiB") {
		t.Errorf("%v", err)
	}
	t.Run("and ends with its context", func(t *testing.T) {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		if err := unpackPayload(ctx, io.Discard, bytes.NewReader(image), b, imageLimits); !errors.Is(err, context.Canceled) {
			t.Errorf("%v", err)
		}
	})
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

func TestVmlinuxThatCannotBootIsRefusedByName(t *testing.T) {
	noLoad := goodKernel()
	binary.LittleEndian.PutUint32(noLoad[64:], uint32(elf.PT_NULL))
	object := goodKernel()
	binary.LittleEndian.PutUint16(object[16:], uint16(elf.ET_REL))
	bigNote := goodKernel()
	binary.LittleEndian.PutUint64(bigNote[64+56+32:], 1<<40)
	elf32 := goodKernel()
	elf32[elf.EI_CLASS] = byte(elf.ELFCLASS32)
	for name, tt := range map[string]struct {
		image []byte
		want  string
	}{
		"good":            {goodKernel(), ""},
		"without PVH":     {tinyKernel(elf.EM_X86_64, false), "CONFIG_PVH"},
		"for arm64":       {tinyKernel(elf.EM_AARCH64, true), "not for x86-64"},
		"for 32 bits":     {elf32, "ELF"},
		"an object file":  {object, "not an executable"},
		"nothing to load": {noLoad, "without anything to load"},
		"cut off":         {goodKernel()[:80], "ELF"},
		"endless notes":   {bigNote, "notes"},
		"just the magic":  {[]byte(elf.ELFMAG), "ELF"},
	} {
		err := checkVmlinux(bytes.NewReader(tt.image))
		switch {
		case tt.want == "" && err == nil:
		case tt.want == "" || err == nil || !strings.Contains(err.Error(), tt.want):
			t.Errorf("%s: %v; want %q", name, err, tt.want)
		}
	}
}

// scan finds the release of an image, which it writes to a file in dir.
func scan(t *testing.T, dir string, image []byte) (string, error) {
	t.Helper()
	path := filepath.Join(dir, "vmlinux")
	if err := os.WriteFile(path, image, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	release, _, err := scanVmlinux(f)
	return release, err
}

// FuzzKernelImage hands arbitrary bytes to all that reads an image. Whatever is accepted must satisfy a check of its own.
func FuzzKernelImage(f *testing.F) {
	f.Add(goodKernel())
	f.Add(tinyKernel(elf.EM_AARCH64, true))
	for name, p := range payloads(f) {
		size := len(goodKernel())
		if name == "gzip" {
			size = -1
		}
		f.Add(bzImageOf(p, size))
	}
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, image []byte) {
		if isELF(image) {
			if checkVmlinux(bytes.NewReader(image)) == nil && !bytes.Contains(image, []byte("Xen\x00")) {
				t.Fatal("accepted an image without a PVH note")
			}
			release, err := scan(t, dir, image)
			if err != nil || release != "" && (!validRelease(release) || strings.Contains(release, "/")) {
				t.Fatalf("release %q, %v", release, err)
			}
			return
		}
		b, err := parseBzImage(bytes.NewReader(image), int64(len(image)))
		if err != nil {
			return
		}
		if b.offset < 0 || b.length <= 0 || b.offset+b.length > int64(len(image)) {
			t.Fatalf("payload at %d+%d of %d bytes", b.offset, b.length, len(image))
		}
		var out counter
		// Small limits, or the time goes into what is allowed.
		lim := limits{4 << 20, 1 << 20}
		_ = unpackPayload(context.Background(), &out, bytes.NewReader(image), b, lim)
		if int64(out) > lim.unpacked+1 {
			t.Fatalf("unpacked %d bytes", out)
		}
	})
}

type counter int64

func (c *counter) Write(b []byte) (int, error) { *c += counter(len(b)); return len(b), nil }

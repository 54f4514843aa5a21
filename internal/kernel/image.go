package kernel

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"compress/gzip"
	"context"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
	bcjxz "github.com/therootcompany/xz"
	"github.com/ulikunitz/xz/lzma"
)

const (
	// maxImage bounds an image file and what it unpacks to, in bytes. Distributions' kernels have 30 to 80 MiB unpacked.
	maxImage = 512 << 20
	// maxWindow bounds the memory that a payload's own header may ask for, in bytes. The kernel's build compresses with
	// zstd --ultra -22, a window of 128 MiB, and with xz --lzma2=dict=128MiB (6.x).
	maxWindow = 128 << 20
)

// limits bounds the unpacking of an image, in bytes.
type limits struct {
	unpacked int64
	window   int
}

var imageLimits = limits{maxImage, maxWindow}

// Offsets in the boot sector of a bzImage, from the kernel's Documentation/arch/x86/boot.rst.
const (
	bootSetupSects    = 0x1f1
	bootMagic         = 0x202 // "HdrS"
	bootProtocol      = 0x206
	bootKernelVersion = 0x20e
	bootPayloadOffset = 0x248
	bootPayloadLength = 0x24c
	bootHeaderSize    = 0x250
	// bootMinProtocol is the first protocol that tells where the payload is (2.08, Linux 2.6.26).
	bootMinProtocol = 0x0208
)

// isELF tells an uncompressed image from a vmlinuz.
func isELF(head []byte) bool { return bytes.HasPrefix(head, []byte(elf.ELFMAG)) }

// bzImage is where the payload of a bzImage lies, and which release its header names.
type bzImage struct {
	offset, length int64
	release        string
}

// parseBzImage reads the header of a bzImage of size bytes.
func parseBzImage(r io.ReaderAt, size int64) (bzImage, error) {
	var h [bootHeaderSize]byte
	if _, err := r.ReadAt(h[:], 0); err != nil {
		return bzImage{}, fmt.Errorf("too short for a kernel image (%d bytes)", size)
	}
	if string(h[bootMagic:bootMagic+4]) != "HdrS" {
		return bzImage{}, errors.New("neither an ELF vmlinux nor an x86 bzImage (no HdrS at 0x202)")
	}
	if v := binary.LittleEndian.Uint16(h[bootProtocol:]); v < bootMinProtocol {
		return bzImage{}, fmt.Errorf("boot protocol %d.%02d is older than 2.08", v>>8, v&0xff)
	}
	sects := int64(h[bootSetupSects])
	if sects == 0 {
		sects = 4 // boot.rst: for backwards compatibility
	}
	b := bzImage{
		offset: (sects+1)*512 + int64(binary.LittleEndian.Uint32(h[bootPayloadOffset:])),
		length: int64(binary.LittleEndian.Uint32(h[bootPayloadLength:])),
	}
	if b.length == 0 || b.offset+b.length > size {
		return bzImage{}, fmt.Errorf("truncated: the payload ends at %d, the file at %d", b.offset+b.length, size)
	}
	if v := int64(binary.LittleEndian.Uint16(h[bootKernelVersion:])); v != 0 {
		b.release = versionString(r, v+512, (sects+1)*512)
	}
	return b, nil
}

// versionString reads the release at the head of the version text, which is "<release> (builder) #1 SMP ...".
func versionString(r io.ReaderAt, offset, end int64) string {
	text := make([]byte, max(0, min(128, end-offset)))
	n, _ := r.ReadAt(text, offset)
	text = text[:n]
	if i := bytes.IndexAny(text, " \x00"); i >= 0 {
		text = text[:i]
	}
	if !validRelease(string(text)) {
		return ""
	}
	return string(text)
}

// validRelease says whether s may be a release: it becomes part of paths.
func validRelease(s string) bool {
	if s == "" || len(s) > 64 || s[0] == '.' {
		return false
	}
	return strings.IndexFunc(s, func(c rune) bool {
		return !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.ContainsRune("._+~-", c))
	}) < 0
}

// decompressor opens a payload by its magic number. The list is that of the kernel's CONFIG_KERNEL_*, except LZO.
func decompressor(payload io.Reader, head []byte, lim limits) (r io.Reader, format string, err error) {
	has := func(magic string) bool { return bytes.HasPrefix(head, []byte(magic)) }
	switch {
	case has("\x1f\x8b"):
		z, err := gzip.NewReader(payload)
		if err != nil {
			return nil, "gzip", err
		}
		z.Multistream(false)
		return z, "gzip", nil
	case has("\xfd7zXZ\x00"):
		// The kernel's xz has the x86 branch filter, which not every decoder knows.
		r, err = bcjxz.NewReader(payload, uint32(lim.window))
		if err == nil {
			r.(*bcjxz.Reader).Multistream(false)
		}
		return r, "xz", err
	case has("\x28\xb5\x2f\xfd"):
		d, err := zstd.NewReader(payload, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(uint64(lim.window)),
			zstd.WithDecoderMaxMemory(uint64(lim.unpacked)))
		if err != nil {
			return nil, "zstd", err
		}
		return d.IOReadCloser(), "zstd", nil
	case has("\x02\x21\x4c\x18"):
		return lz4.NewReader(payload), "lz4", nil
	case has("BZh"):
		return bzip2.NewReader(payload), "bzip2", nil
	case has("\x5d\x00\x00"):
		// The capacity is the most that the payload's own header may ask for.
		r, err = lzma.ReaderConfig{DictCap: lim.window}.NewReader(payload)
		return r, "lzma", err
	case has("\x89LZO"):
		return nil, "lzo", errors.New("a payload compressed with LZO is not supported: use a kernel with another compression")
	}
	return nil, "", fmt.Errorf("payload with unknown compression (it begins with % x)", head)
}

// unpackPayload writes the payload of a bzImage, unpacked, to w.
func unpackPayload(ctx context.Context, w io.Writer, image io.ReaderAt, b bzImage, lim limits) (err error) {
	// A decoder that meets bytes that its authors did not think of is an error like any other.
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("corrupt payload: the decoder failed: %v", p)
		}
	}()
	var head [8]byte
	if _, err := image.ReadAt(head[:min(8, b.length)], b.offset); err != nil {
		return err
	}
	// The kernel's build appends the unpacked size, except to gzip, which has it already. An lz4 stream has no end of its own.
	length, size := b.length, int64(-1)
	if !bytes.HasPrefix(head[:], []byte("\x1f\x8b")) && length > 4 {
		length -= 4
		var appended [4]byte
		if _, err := image.ReadAt(appended[:], b.offset+length); err != nil {
			return err
		}
		size = int64(binary.LittleEndian.Uint32(appended[:]))
	}
	payload := bufio.NewReaderSize(io.NewSectionReader(image, b.offset, length), 1<<20)
	r, format, err := decompressor(payload, head[:], lim)
	if err != nil {
		if format != "" {
			return fmt.Errorf("%s payload: %w", format, err)
		}
		return err
	}
	if c, ok := r.(io.Closer); ok {
		defer c.Close()
	}
	n, err := io.Copy(w, io.LimitReader(&ctxReader{ctx, r}, lim.unpacked+1))
	if err != nil {
		return fmt.Errorf("%s payload: %w", format, err)
	}
	if n > lim.unpacked {
		return fmt.Errorf("%s payload: more than %d MiB unpacked", format, lim.unpacked>>20)
	}
	if size >= 0 && n != size {
		return fmt.Errorf("%s payload: %d bytes unpacked, and %d announced", format, n, size)
	}
	return nil
}

// ctxReader ends a long copy when the context does.
type ctxReader struct {
	ctx context.Context
	r   io.Reader
}

func (c *ctxReader) Read(b []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(b)
}

// xenNotePhys32Entry is XEN_ELFNOTE_PHYS32_ENTRY of the kernel's xen/interface/elfnote.h: the entry of the PVH boot protocol.
const xenNotePhys32Entry = 18

// checkVmlinux says whether an ELF image can be booted by Firecracker and by QEMU's microvm machine.
func checkVmlinux(f io.ReaderAt) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("corrupt ELF file: %v", p)
		}
	}()
	file, err := elf.NewFile(f)
	if err != nil {
		return fmt.Errorf("not a usable ELF file: %w", err)
	}
	switch {
	case file.Class != elf.ELFCLASS64 || file.Machine != elf.EM_X86_64:
		return fmt.Errorf("an ELF file for %s %s, not for x86-64", file.Machine, file.Class)
	case file.Type != elf.ET_EXEC && file.Type != elf.ET_DYN:
		return fmt.Errorf("an ELF file of type %s, not an executable", file.Type)
	}
	loads := 0
	for _, p := range file.Progs {
		if p.Type == elf.PT_LOAD {
			loads++
		}
		if p.Type != elf.PT_NOTE {
			continue
		}
		found, err := hasPVHNote(p)
		if err != nil {
			return err
		}
		if found && loads > 0 {
			return nil
		}
	}
	if loads == 0 {
		return errors.New("an ELF file without anything to load")
	}
	return errors.New("no PVH entry in the ELF notes: the kernel must be built with CONFIG_PVH")
}

// maxNotes bounds a note segment, in bytes; a kernel's has less than 1 KiB.
const maxNotes = 1 << 20

func hasPVHNote(p *elf.Prog) (bool, error) {
	if p.Filesz > maxNotes {
		return false, fmt.Errorf("corrupt ELF file: notes of %d bytes", p.Filesz)
	}
	b := make([]byte, p.Filesz)
	if _, err := p.ReadAt(b, 0); err != nil {
		return false, fmt.Errorf("corrupt ELF file: notes: %w", err)
	}
	align := func(n uint32) uint64 { return (uint64(n) + 3) &^ 3 }
	for len(b) >= 12 {
		nameSize, descSize := binary.LittleEndian.Uint32(b), binary.LittleEndian.Uint32(b[4:])
		kind := binary.LittleEndian.Uint32(b[8:])
		b = b[12:]
		if align(nameSize)+align(descSize) > uint64(len(b)) {
			return false, nil
		}
		if kind == xenNotePhys32Entry && string(b[:nameSize]) == "Xen\x00" && descSize >= 4 {
			return true, nil
		}
		b = b[align(nameSize)+align(descSize):]
	}
	return false, nil
}

// scanVmlinux looks in an image for what only its bytes tell: the release, and the embedded configuration (CONFIG_IKCONFIG,
// a gzip stream between IKCFG_ST and IKCFG_ED).
func scanVmlinux(f *os.File) (release string, ikconfig []byte, err error) {
	const (
		chunk   = 4 << 20
		overlap = 256
		banner  = "Linux version "
	)
	buf := make([]byte, chunk+overlap)
	for offset := int64(0); ; offset += chunk {
		n, rerr := f.ReadAt(buf, offset)
		b := buf[:n]
		for i := 0; release == ""; {
			j := bytes.Index(b[i:], []byte(banner))
			if j < 0 {
				break
			}
			i += j + len(banner)
			text, _, _ := bytes.Cut(b[i:min(i+80, n)], []byte(" "))
			if len(text) > 0 && text[0] >= '0' && text[0] <= '9' && validRelease(string(text)) {
				release = string(text)
			}
		}
		if i := bytes.Index(b, []byte("IKCFG_ST\x1f\x8b")); i >= 0 && ikconfig == nil {
			ikconfig = readIKConfig(f, offset+int64(i)+8)
		}
		if errors.Is(rerr, io.EOF) || release != "" && ikconfig != nil {
			return release, ikconfig, nil
		}
		if rerr != nil {
			return "", nil, rerr
		}
	}
}

func readIKConfig(f io.ReaderAt, offset int64) []byte {
	z, err := gzip.NewReader(io.NewSectionReader(f, offset, maxConfig))
	if err != nil {
		return nil
	}
	z.Multistream(false)
	b, err := io.ReadAll(io.LimitReader(z, maxConfig))
	if err != nil {
		return nil
	}
	return b
}

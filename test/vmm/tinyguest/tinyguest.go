// Package tinyguest makes the smallest guest that a test of a VMM can boot: an ELF kernel of some hundred bytes.
//
// It is entered by the PVH boot protocol, which both Firecracker and QEMU speak, prints [Banner] on the first serial port, and
// then answers each byte from there: 'r' reboots through the i8042 (what Linux does with reboot=k), 't' ends in a triple
// fault, 'l' leaves the local APIC's timer as Linux does when it could not measure it, and halts, anything else is echoed. It uses no
// device but these and no interrupt, so it needs no kernel to be installed.
package tinyguest

import (
	"bytes"
	"encoding/binary"
	"os"
)

// Banner is what the guest prints when it runs.
const Banner = "tinyguest is up\n"

const (
	// loadAddress is where the kernel lies in the guest's memory: at 16 MiB, like Linux.
	loadAddress = 0x1000000
	// stackTop is the end of the stack, counted from loadAddress; the code below is much shorter than a page.
	stackTop = 0x1800
)

// Write makes the kernel at path.
func Write(path string) error { return os.WriteFile(path, ELF(), 0o644) }

// assembler collects 32-bit code with short jumps.
type assembler struct {
	code   []byte
	labels map[string]int
	jumps  map[int]string // offset of a displacement byte -> label
}

func (a *assembler) emit(b ...byte)    { a.code = append(a.code, b...) }
func (a *assembler) label(name string) { a.labels[name] = len(a.code) }

// jump emits a short jump with the given opcode.
func (a *assembler) jump(opcode byte, label string) {
	a.emit(opcode, 0)
	a.jumps[len(a.code)-1] = label
}

func (a *assembler) finish() []byte {
	for at, label := range a.jumps {
		a.code[at] = byte(a.labels[label] - (at + 1))
	}
	return a.code
}

// program is the guest's code; its message follows it directly.
func program() []byte {
	const jz, jnz, jmp = 0x74, 0x75, 0xEB
	a := &assembler{labels: map[string]int{}, jumps: map[int]string{}}
	a.emit(0xFC) // cld
	a.emit(0xFA) // cli
	a.emit(0xBC) // mov esp, stack
	a.emit(binary.LittleEndian.AppendUint32(nil, loadAddress+stackTop)...)
	a.emit(0xBE, 0, 0, 0, 0) // mov esi, message
	message := len(a.code) - 4
	a.emit(0x66, 0xBA, 0xF8, 0x03) // mov dx, 0x3f8
	a.label("print")
	a.emit(0xAC)       // lodsb
	a.emit(0x84, 0xC0) // test al, al
	a.jump(jz, "poll")
	a.emit(0xEE) // out dx, al
	a.jump(jmp, "print")
	a.label("poll")
	a.emit(0xF3, 0x90)             // pause
	a.emit(0x66, 0xBA, 0xFD, 0x03) // mov dx, 0x3fd: line status
	a.emit(0xEC)                   // in al, dx
	a.emit(0xA8, 0x01)             // test al, 1: a byte has come
	a.jump(jz, "poll")
	a.emit(0x66, 0xBA, 0xF8, 0x03) // mov dx, 0x3f8
	a.emit(0xEC)                   // in al, dx
	a.emit(0x3C, 'r')              // cmp al, 'r'
	a.jump(jz, "reboot")
	a.emit(0x3C, 't') // cmp al, 't'
	a.jump(jz, "fault")
	a.emit(0x3C, 'l') // cmp al, 'l'
	a.jump(jz, "lose")
	a.emit(0xEE) // out dx, al
	a.jump(jmp, "poll")
	a.label("reboot")
	a.emit(0xB0, 0xFE) // mov al, 0xfe: pulse the reset line
	a.emit(0xE6, 0x64) // out 0x64, al
	a.jump(jmp, "halt")
	a.label("lose")
	a.emit(0xC7, 0x05, 0x20, 0x03, 0xE0, 0xFE, 0xEC, 0x00, 0x03, 0x00) // mov dword [0xfee00320], 0x300ec: periodic, masked
	a.emit(0xC7, 0x05, 0x80, 0x03, 0xE0, 0xFE, 0xFF, 0xFF, 0xFF, 0x0F) // mov dword [0xfee00380], 0xfffffff: the initial count
	a.label("halt")
	a.emit(0xF4) // hlt
	a.jump(jmp, "halt")
	a.label("fault")
	a.emit(0x6A, 0x00, 0x6A, 0x00) // push 0 twice: an empty table
	a.emit(0x0F, 0x01, 0x1C, 0x24) // lidt [esp]
	a.emit(0xCC)                   // int3, which has no handler
	code := a.finish()
	binary.LittleEndian.PutUint32(code[message:], uint32(loadAddress+len(code)))
	return append(append(code, Banner...), 0)
}

// ELF is the kernel: one loadable segment, and the note that says where the PVH entry is.
func ELF() []byte {
	const (
		ehdrSize, phdrSize = 64, 56
		noteAt             = ehdrSize + 2*phdrSize
		codeAt             = 0x1000
		physEntryNote      = 18 // XEN_ELFNOTE_PHYS32_ENTRY (xen/include/public/elfnote.h)
	)
	code := program()
	var note bytes.Buffer
	put := func(b *bytes.Buffer, values ...any) {
		for _, v := range values {
			_ = binary.Write(b, binary.LittleEndian, v) // a bytes.Buffer takes all
		}
	}
	put(&note, uint32(4), uint32(8), uint32(physEntryNote), []byte("Xen\x00"), uint64(loadAddress))

	var out bytes.Buffer
	out.Write([]byte{0x7f, 'E', 'L', 'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	const executable, amd64 = 2, 62
	put(&out, uint16(executable), uint16(amd64), uint32(1), uint64(loadAddress), uint64(ehdrSize), uint64(0), uint32(0),
		uint16(ehdrSize), uint16(phdrSize), uint16(2), uint16(0), uint16(0), uint16(0))
	const load, noteType, rwx = 1, 4, 7
	put(&out, uint32(load), uint32(rwx), uint64(codeAt), uint64(loadAddress), uint64(loadAddress),
		uint64(len(code)), uint64(stackTop), uint64(0x1000))
	put(&out, uint32(noteType), uint32(4), uint64(noteAt), uint64(0), uint64(0), uint64(note.Len()), uint64(note.Len()), uint64(4))
	out.Write(note.Bytes())
	out.Write(make([]byte, codeAt-out.Len()))
	out.Write(code)
	return out.Bytes()
}

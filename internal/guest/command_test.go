package guest

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"testing"
)

// elfProgram is the head of an ELF program with or without a loader.
func elfProgram(class, machine byte, loader string) string {
	b := make([]byte, 64)
	copy(b, "\x7fELF")
	b[4], b[5], b[6], b[18] = class, 1, 1, machine
	binary.LittleEndian.PutUint64(b[32:], 64)
	binary.LittleEndian.PutUint16(b[54:], 56)
	binary.LittleEndian.PutUint16(b[56:], 1)
	p := make([]byte, 56)
	if loader == "" {
		binary.LittleEndian.PutUint32(p, 1)
		return "! " + string(b) + string(p)
	}
	binary.LittleEndian.PutUint32(p, 3)
	binary.LittleEndian.PutUint64(p[8:], 64+56)
	binary.LittleEndian.PutUint64(p[32:], uint64(len(loader)+1))
	return "! " + string(b) + string(p) + loader + "\x00"
}

func TestCommandCheck(t *testing.T) {
	const amd64, arm64 = 62, 183
	_, fd := rootfs(t, map[string]string{
		"bin/static":      elfProgram(2, amd64, ""),
		"bin/dynamic":     elfProgram(2, amd64, "/lib64/ld.so"),
		"lib64/ld.so":     elfProgram(2, amd64, ""),
		"bin/noloader":    elfProgram(2, amd64, "/lib64/missing.so"),
		"bin/arm":         elfProgram(2, arm64, ""),
		"bin/i386":        elfProgram(1, 3, ""),
		"bin/script":      "! #! /bin/static -x\n",
		"bin/relscript":   "! #!static\n",
		"bin/lonely":      "! #!/no/interp\n",
		"bin/loop":        "! #!/bin/loop\n",
		"bin/bang":        "! #!\n",
		"bin/noheaders":   elfProgram(2, amd64, "")[:2+64],
		"bin/text":        "! echo hello\n",
		"bin/empty":       "! ",
		"bin/data":        "no x bit",
		"bin/dir/":        "",
		"bin/link":        "-> static",
		"bin/abslink":     "-> /bin/static",
		"bin/outside":     "-> /../../../../../bin/sh",
		"bin/dangling":    "-> nowhere",
		"sbin/denied":     "no x bit",
		"bin/denied":      elfProgram(2, amd64, ""),
		"sbin/onlydenied": "no x bit",
	})
	for _, tt := range []struct {
		name, command string
		code          uint32 // 0: it can be executed
		text          string
		p             process
	}{
		{"found in PATH", "static", 0, "", process{}},
		{"the first match that may be executed counts", "denied", 0, "", process{}},
		{"a loader", "dynamic", 0, "", process{}},
		{"32 bits are left to the kernel", "i386", 0, "", process{}},
		{"a script", "script", 0, "", process{}},
		{"a link", "/bin/link", 0, "", process{}},
		{"an absolute link", "/bin/abslink", 0, "", process{}},
		{"relative to the working directory", "./static", 0, "", process{cwd: "/bin"}},
		{"an interpreter relative to the working directory", "relscript", 0, "", process{cwd: "/bin"}},
		{"not in PATH", "nope", 127, `exec: "nope": executable file not found in $PATH`, process{}},
		{"not there", "/nope", 127, `exec: "/nope": stat /nope: no such file or directory`, process{}},
		{"a file in place of a directory", "/bin/static/x", 127, "no such file", process{}},
		{"a link to nothing", "/bin/dangling", 127, "no such file", process{}},
		{"a link that leads out", "/bin/outside", 127, "no such file", process{}},
		{"no loader", "noloader", 127, "interpreter /lib64/missing.so: no such file", process{}},
		{"no interpreter", "lonely", 127, "interpreter /no/interp: no such file", process{}},
		{"a directory", "/bin/dir", 126, "is a directory", process{}},
		{"no permission", "/bin/data", 126, `exec: "/bin/data": permission denied`, process{}},
		{"no permission in PATH", "onlydenied", 126, "permission denied", process{}},
		{"another machine's", "arm", 126, "exec format error", process{}},
		{"text", "text", 126, "exec format error", process{}},
		{"empty", "empty", 126, "exec format error", process{}},
		{"no interpreter named", "bang", 126, "exec format error", process{}},
		{"without program headers", "noheaders", 126, "exec format error", process{}},
		{"a loop of scripts", "loop", 126, "too many levels", process{}},
		{"in another mount nobody knows", "/bin/nope", 0, "", process{mounts: []string{"/bin"}}},
		{"nor there in PATH", "nope", 0, "", process{mounts: []string{"/bin"}}},
		{"a mount elsewhere does not matter", "/bin/nope", 127, "no such file", process{mounts: []string{"/proc", "/bi", "/bin/nope2"}}},
		{"another user may execute too", "static", 0, "", process{user: execUser{UID: 5, GID: 5}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := tt.p
			p.args, p.env = []string{tt.command}, []string{"PATH=/sbin:/bin"}
			if p.cwd == "" {
				p.cwd = "/"
			}
			err := (&commandCheck{fd, &p}).run()
			var failure *startError
			switch {
			case tt.code == 0 && err == nil:
			case !errors.As(err, &failure) || failure.code != tt.code || !strings.Contains(failure.text, tt.text):
				t.Errorf("%v (%+v); want %d %s", err, failure, tt.code, tt.text)
			}
		})
	}
}

// FuzzLoader reads the program headers of files that a container made.
func FuzzLoader(f *testing.F) {
	f.Add([]byte(strings.TrimPrefix(elfProgram(2, 62, "/lib64/ld.so"), "! ")))
	f.Add([]byte(strings.TrimPrefix(elfProgram(2, 62, ""), "! ")))
	f.Fuzz(func(t *testing.T, b []byte) {
		if path, err := loader(bytes.NewReader(b), b[:min(len(b), headSize)]); err == nil && len(path) > maxLoader {
			t.Fatal(fmt.Errorf("a loader of %d bytes", len(path)))
		}
	})
}

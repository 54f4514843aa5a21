package api

import (
	"errors"
	"fmt"
	"net/http"
	"syscall"
	"unicode"
	"unicode/utf8"
)

// Fault is an answer that refuses a request: its text is the fault_message.
type Fault struct {
	Status  int // HTTP status code
	Message string
}

func (f *Fault) Error() string { return f.Message }

func faultf(format string, args ...any) *Fault {
	return &Fault{Status: http.StatusBadRequest, Message: fmt.Sprintf(format, args...)}
}

// unsupported refuses what Firecracker does and emulation cannot; what names it.
func unsupported(what string) *Fault {
	return faultf("The requested operation is not supported: firecracker-qemu emulates Firecracker in QEMU and has no %s.", what)
}

// The order rules' answers.
var (
	errPostBoot = faultf("The requested operation is not supported after starting the microVM.")
	errPreBoot  = faultf("The requested operation is not supported before starting the microVM.")
)

// rustError gives a system error the words that Rust's io::Error has for it, which are the C library's.
func rustError(err error) string {
	var errno syscall.Errno
	if !errors.As(err, &errno) {
		return err.Error()
	}
	text := errno.Error()
	r, size := utf8.DecodeRuneInString(text)
	return fmt.Sprintf("%c%s (os error %d)", unicode.ToUpper(r), text[size:], int(errno))
}

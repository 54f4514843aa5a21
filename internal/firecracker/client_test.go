package firecracker

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
)

// api answers every request with these bytes.
func api(t *testing.T, answer string) *Client {
	t.Helper()
	c := NewClient(listen(t, func(conn net.Conn) {
		b := make([]byte, 4096)
		_, _ = conn.Read(b)
		_, _ = io.WriteString(conn, answer)
	}))
	t.Cleanup(c.Close)
	return c
}

func answer(status int, body string) string {
	return fmt.Sprintf("HTTP/1.1 %d %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s",
		status, http.StatusText(status), len(body), body)
}

func TestTheVersionIsRead(t *testing.T) {
	v, err := api(t, answer(200, `{"firecracker_version":"1.16.1"}`)).Version(t.Context())
	if err != nil || v.Firecracker != "1.16.1" {
		t.Errorf("got %+v, %v", v, err)
	}
}

func TestAFaultIsToldInTheVMMsWords(t *testing.T) {
	err := api(t, answer(400, `{"fault_message":"The kernel file cannot be opened"}`)).PutBootSource(t.Context(), BootSource{})
	fault := new(Fault)
	if !errors.As(err, &fault) || fault.Status != 400 || fault.Message != "The kernel file cannot be opened" ||
		fault.Method != http.MethodPut || fault.Path != "/boot-source" {
		t.Errorf("got %#v", err)
	}
}

func TestAnswersThatAreNoneAreErrors(t *testing.T) {
	for name, text := range map[string]string{
		"nothing":                "",
		"no HTTP":                "garbage\r\n\r\n",
		"no JSON":                answer(200, "<html>"),
		"a body cut short":       "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{}",
		"a body above the limit": answer(200, `{"firecracker_version":"`+strings.Repeat("1", maxAnswer)+`"}`),
		"a header above the limit": "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 1<<20) +
			"\r\nContent-Length: 2\r\n\r\n{}",
	} {
		t.Run(name, func(t *testing.T) {
			if v, err := api(t, text).Version(t.Context()); err == nil {
				t.Errorf("taken: %.40v", v)
			} else if len(err.Error()) > 2*maxFault {
				t.Errorf("an error of %d bytes", len(err.Error()))
			}
		})
	}
}

func TestAHugeFaultIsCut(t *testing.T) {
	for name, body := range map[string]string{
		"message": `{"fault_message":"` + strings.Repeat("x", 1<<19) + `"}`,
		"no JSON": strings.Repeat("x", 1<<19),
	} {
		t.Run(name, func(t *testing.T) {
			err := api(t, answer(500, body)).PutEntropy(t.Context())
			if fault := new(Fault); !errors.As(err, &fault) || len(fault.Message) > maxFault {
				t.Errorf("got an error of %d bytes", len(fmt.Sprint(err)))
			}
		})
	}
}

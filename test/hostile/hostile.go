// Package hostile has agents that break the contract of package guestapi. The e2e suites put them into a guest by the
// program hostileagent, and package sandbox's tests behind a VMM of their own.
package hostile

import (
	"net"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/runcvm/runcvm/internal/guestapi"
)

// Mode is what an agent does with the host's connections to its two ports.
type Mode struct{ Agent, Stream func(net.Conn) }

// Modes are the agents by name.
var Modes = map[string]Mode{
	// Does what the contract says, with a process that ends at once; to be sure that it is the others' faults that are found.
	"honest": {serve(&service{exitCode: 7, orderly: true}), honest},
	// The same with a process that ends by its first signal.
	"obedient": {serve(&service{signals: make(chan uint32, 1), orderly: true}), honest},

	// Accepts and says nothing.
	"silent": {silent, silent},
	// Closes what it has accepted.
	"closing": {closeAtOnce, closeAtOnce},
	// Bytes that are no protocol at all.
	"garbage": {garbage, garbage},
	// An answer to every call of 10 MiB, and after it more bytes than it announced.
	"huge": {huge, silent},
	// A refusal of 1 MiB of control characters.
	"setup-refused": {serve(&service{setup: status.Error(codes.Internal, lies(1<<20))}), honest},
	"create-never":  {serve(&service{create: errNever}), honest},
	"start-never":   {serve(&service{start: errNever}), honest},
	// A reason of control characters, and an exit code that there is not.
	"start-refused": {serve(&service{refusal: &guestapi.StartResponse{Error: lies(1 << 20), ErrorCode: 4_000_000_000}}), honest},

	// Every call succeeds, no stream is ever taken.
	"deaf":            {serve(&service{}), silent},
	"stream-refused":  {serve(&service{start: errNever}), sendInsteadOfOpening("\x05\x00\x00\x00\x03\x1b[m")},
	"stream-garbage":  {serve(&service{start: errNever}), sendInsteadOfOpening("\xff\xff\xff\xff\xff\xff")},
	"stream-too-long": {serve(&service{start: errNever}), sendInsteadOfOpening("\x05\xff\xff\xff\xff")},

	// The streams are taken and closed, the process ends with 0.
	"early": {serve(&service{}), closeEarly},
	// The process ends, its output never does.
	"endless": {serve(&service{}), takeAndHold},
	// Output frames longer than the contract has them.
	"long-frames": {serve(&service{}), sendAfterOpening("\x02\xff\xff\xff\xff")},
	// Megabytes of control characters for a kernel release, an exit code that there is not, every end twice.
	"lies": {serve(&service{release: lies(1 << 20), exitCode: 4_000_000_000}), sendTwice},
	// The process is there, and nobody tells how it ended.
	"wait-refused": {serve(&service{wait: status.Error(codes.NotFound, "no container")}), honest},
	// The process runs, takes every signal, and never ends; neither does the guest.
	"disobedient": {serve(&service{endless: true}), takeAndHold},
	// The same with signals that are never taken.
	"signal-never": {serve(&service{endless: true, signal: errNever}), takeAndHold},

	// The container runs on, and takes further processes.
	"runs": {serve(&service{endless: true, execCode: 9}), honest},
	// No further process is ever begun, or refused.
	"exec-never": {serve(&service{endless: true, exec: errNever, resize: errNever}), honest},
	// A reason of control characters, and an exit code that there is not.
	"exec-refused": {serve(&service{
		endless: true, execRefusal: &guestapi.ExecResponse{Error: lies(1 << 20), ErrorCode: 4_000_000_000},
	}), honest},
	"exec-failed": {serve(&service{endless: true, exec: status.Error(codes.Internal, lies(1<<20))}), honest},
	// A further process ends, with an exit code that there is not, and its output does not.
	"exec-lies": {serve(&service{endless: true, execCode: 4_000_000_000}), takeAndHold},
	// Its output is no stream.
	"exec-garbage": {serve(&service{endless: true}), sendAfterOpening("\x02\xff\xff\xff\xff")},
	// It is there, and nobody tells how it ended.
	"exec-wait-refused": {serve(&service{endless: true, execWait: status.Error(codes.NotFound, "no process")}), honest},
}

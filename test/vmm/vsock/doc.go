// Package vsock holds a table of what becomes of vsock connections, as real Firecrackers have it, and holds firecracker-qemu
// to it: CONNECT and what is refused, closing by either side, and data on its way when that happens.
//
// A case is a script for the two ends of connections. The host's end is in the test's own process, on the VMM's Unix sockets; the
// guest's end is program vsockpeer, PID 1 of a real Linux guest. Each step is one line, and what it observed is the recording:
// testdata/v<version>.json, made in the machine with KVM by
//
//	RUNCVM_TEST_RECORD=1 PKG=./test/vmm/vsock make test-kvm FIRECRACKER=PATH
//
// which leaves it in build/kvm/artifacts. All cases run in one guest, one after the other, over one control connection, so a
// connection is added only where a script adds one. Observations hold nothing that depends on the size of the system's buffers.
//
// Without RUNCVM_VMM the test takes firecracker-qemu from RUNCVM_BIN and compares it with the recording of the version that it
// claims to be; testdata/differences.json lists where it may differ, with a reason each. With RUNCVM_VMM naming a real
// Firecracker the comparison is exact.
package vsock

// Package vmm holds a table of requests to Firecracker's API with the answers that real Firecrackers gave, and holds
// firecracker-qemu to it.
//
// testdata/v<version>.json are recordings. In the machine with KVM they are made by
//
//	RUNCVM_TEST_RECORD=1 PKG=./test/vmm make test-kvm FIRECRACKER=PATH	which leaves one in build/kvm/artifacts
//
// and, for the cases that boot no guest, on any host by
//
//	go test ./test/vmm -run TestGolden -record -no-boot -vmm PATH
//
// Without -vmm (or RUNCVM_VMM in the environment) the test builds firecracker-qemu and compares it with the recording of the
// version that it claims to be; testdata/differences.json lists where it may differ, with a reason each. With -vmm naming a
// real Firecracker the comparison is exact.
package vmm

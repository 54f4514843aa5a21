// Package qemu runs a guest in QEMU's microvm machine, as the [api.Launcher] of firecracker-qemu.
//
// [Launcher.Launch] starts QEMU and returns a [VM] when QEMU answers on its control socket. The VM's methods may be called
// from any goroutine until [VM.Done] is closed; then [VM.Err] says how the guest ended and every other call fails.
// [VM.Close] ends a guest that runs, and is safe to repeat.
//
// QEMU gets every socket as an inherited descriptor, so nothing of it lies in the file system, and the kernel kills it when
// this process dies.
package qemu

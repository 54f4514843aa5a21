// Package api answers Firecracker's HTTP API: the same paths, fields, order rules, status codes and fault messages as
// Firecracker [Version], word for word where a client can see them.
//
// Calls in order: [New] makes a VMM that is not started; [VMM.Load] may then apply a whole configuration file;
// [VMM.Serve] answers requests, of which InstanceStart boots the guest through the [Launcher]; [VMM.Start] boots it without a
// request. [VMM.Handle] may be called at any time and from any goroutine: requests are served one at a time, as
// Firecracker serves them. [VMM.Close] ends everything and may be called more than once.
//
// What emulation cannot do is refused by name with status 400, after the checks that Firecracker makes of the same request.
package api

// Version is the Firecracker whose API this is; GET /version and GET / report it.
const Version = "1.16.1"

// MaxPayload is the default bound of a request's body, in bytes (Firecracker's HTTP_MAX_PAYLOAD_SIZE).
const MaxPayload = 51200

// Package guestapi is the contract between the monitor on the host and the agent in the guest: the agent's ttrpc service
// (agent.proto), the vsock ports, and the framed streams that carry a process's standard input and output. It is the only
// package that host code and guest code share.
//
// The host opens every connection; the agent accepts only HostCID. Legal order: Setup, Create, the container's streams,
// Start, then Wait and Signal, Shutdown last.
package guestapi

// vsock ports of the agent, and the only peer it accepts.
const (
	// PortAgent serves the ttrpc service Agent.
	PortAgent = 1024
	// PortStream takes one connection for each stream of a process; see OpenStream.
	PortStream = 1025
	// PortResolver takes the one connection over which the host answers the guest's questions of names; see resolver.go. It is open
	// where NetworkRequest.resolver says so.
	PortResolver = 1026
	// HostCID is VMADDR_CID_HOST of vsock(7).
	HostCID = 2
)

// Files at the root of a container's writable disk. The overlay's upper and work directories lie beside StageDir, so the
// container itself sees none of it.
const (
	// StageDir holds what the host wrote for the agent before the boot.
	StageDir = ".runcvm"
	// EntrypointFile, in StageDir, is the command: one JSON array of strings, at least one.
	EntrypointFile = "entrypoint"
	// ConfigFile, in StageDir, is the OCI runtime specification of the container, without process.args.
	ConfigFile = "config.json"
	// CopiesDir, on the disk of a start (CreateRequest.start_uuid), holds the host's files and directories that were copied for it. A
	// bind mount of the staged specification has one as its source, as "/" + CopiesDir + "/" + NAME. What is written there stays until
	// the guest's end.
	CopiesDir = StageDir + "/copies"
	// UpperDir and WorkDir are the overlay's directories. UpperDir on the disk of a start is a layer between the image and the overlay's
	// own upper directory.
	UpperDir = "upper"
	WorkDir  = "work"
)

// UserAnnotation is the key, in the staged OCI specification, of the user to run as in the form of an image's User field
// (name|uid[:group|gid]); only the guest sees the container's /etc/passwd. It takes the place of process.user.
const UserAnnotation = AnnotationPrefix + "user"

// Further annotations of the staged specification that tell the agent what only the guest can do; the container's own spec has
// none of them.
const (
	// AnnotationPrefix begins them all.
	AnnotationPrefix = "dev.runcvm."
	// GroupsAnnotation has further groups of the process, by name or number, separated by commas.
	GroupsAnnotation = AnnotationPrefix + "groups"
	// InitAnnotation is "true" where the command runs below InitPath.
	InitAnnotation = AnnotationPrefix + "init"
	// InitPath is where a container finds its init; as in Docker.
	InitPath = "/sbin/docker-init"
)

// NetworkStreams is, in the opening of a stream, in the place of a container's id where the stream is of a connection that
// Network.Dial has made. No container has this id.
const NetworkStreams = "/network"

// ResolverAddress is where a container finds Docker's resolver, at port 53, UDP and TCP.
const ResolverAddress = "127.0.0.11"

// MaxContainerID is the longest container id, in bytes.
const MaxContainerID = 128

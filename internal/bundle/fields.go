package bundle

import "slices"

// Place says who does what a field of config.json asks for.
type Place string

// Places.
const (
	// Guest is done in the guest, by its kernel, its agent and its crun.
	Guest Place = "guest"
	// Host is done on the host, around the VMM.
	Host Place = "host"
	// Met is what the microVM gives in another way, or has no need of. A present field is noted in the container's log.
	Met Place = "met otherwise"
	// Refused is what cannot be given. A present field is an error.
	Refused Place = "refused"
)

// Field is what becomes of one field of config.json.
type Field struct {
	// Path is the field's: names as in JSON, [] for the elements of an array and {} for the values of an object.
	Path  string
	Place Place
	// Text is how it is done where that needs a word, for Met the reason, and for Refused what to do instead.
	Text string
}

// Fields is what becomes of each field. A row of Refused stands for all below its path. Load consults it, and docs/oci-runtime.md shows it.
//
// A field counts as present when it is neither absent nor the zero value of its type (null, false, 0, "", [], {}).
var Fields = slices.Concat([]Field{
	{"ociVersion", Host, "1.x"},

	{"process.terminal", Guest, ""},
	{"process.consoleSize.height", Guest, ""},
	{"process.consoleSize.width", Guest, ""},
	{"process.user.uid", Guest, ""},
	{"process.user.gid", Guest, ""},
	{"process.user.umask", Guest, ""},
	{"process.user.additionalGids", Guest, ""},
	{"process.user.username", Refused, "it is for Windows; give uid and gid"},
	{"process.args", Guest, "by /.runcvm/entrypoint on the container's writable disk"},
	{"process.commandLine", Refused, "it is for Windows; give args"},
	{"process.env", Guest, ""},
	{"process.cwd", Guest, ""},
	{"process.capabilities.bounding", Guest, ""},
	{"process.capabilities.effective", Guest, ""},
	{"process.capabilities.inheritable", Guest, ""},
	{"process.capabilities.permitted", Guest, ""},
	{"process.capabilities.ambient", Guest, ""},
	{"process.rlimits[].type", Guest, ""},
	{"process.rlimits[].hard", Guest, ""},
	{"process.rlimits[].soft", Guest, ""},
	{"process.noNewPrivileges", Guest, ""},
	{"process.apparmorProfile", Met, "AppArmor keeps a container from its host, as the microVM does; the guest has none"},
	{"process.oomScoreAdj", Guest, "among the guest's processes; the VMM keeps its own on the host"},
	{"process.scheduler", Refused, "start the program below chrt(1), whose policy then counts among the guest's processes"},
	{"process.selinuxLabel", Met, "SELinux keeps a container from its host, as the microVM does; the guest has none"},
	{"process.ioPriority", Refused, "start the program below ionice(1), whose class then counts among the guest's processes"},
	{"process.execCPUAffinity", Refused, "start the further process below taskset(1), by the guest's numbers of processors"},

	{"root.path", Host, "the image disk and the writable disk are made of it"},
	{"root.readonly", Guest, ""},
	{"hostname", Guest, ""},
	{"domainname", Guest, ""},

	{"mounts[].destination", Guest, ""},
	{"mounts[].type", Guest, "file systems of the kernel's own; of the host's files see [mounts](#mounts)"},
	{"mounts[].source", Guest, ""},
	{"mounts[].options", Guest, ""},
	{"mounts[].uidMappings", Refused, "leave the mount's mapping of ids out (idmap, :U): its files are copied with their own owners"},
	{"mounts[].gidMappings", Refused, "leave the mount's mapping of ids out (idmap, :U): its files are copied with their own owners"},
}, hook("prestart", Host, "at create, in the runtime's namespaces"),
	hook("createRuntime", Host, "at create, in the runtime's namespaces"),
	[]Field{{"hooks.createContainer", Refused, "it runs a program of the host between the container's mounts, which the guest has; " +
		"use createRuntime for what is the host's, and startContainer for what is the container's"}},
	hook("startContainer", Guest,
		"in the container, with a program of the container's; id, bundle and status of the state that it gets are the guest's"),
	hook("poststart", Host, "in the runtime's namespaces"),
	hook("poststop", Host, "in the runtime's namespaces"), []Field{
		{"annotations", Host, "told by `state` and to hooks"},

		{"linux.uidMappings", Refused, noUserNamespace},
		{"linux.gidMappings", Refused, noUserNamespace},
		{"linux.sysctl", Guest, "those of the network and of no namespace too, since the guest's kernel is the container's alone"},
		{"linux.resources.devices[].allow", Guest, ""},
		{"linux.resources.devices[].type", Guest, ""},
		{"linux.resources.devices[].major", Guest, "of the guest's devices"},
		{"linux.resources.devices[].minor", Guest, "of the guest's devices"},
		{"linux.resources.devices[].access", Guest, ""},
		{"linux.resources.memory.limit", Guest, "the guest's memory is sized by it, and the host's limit is that and the VMM's own need"},
		{"linux.resources.memory.reservation", Guest, ""},
		{"linux.resources.memory.swap", Guest, "the guest has no swap"},
		{"linux.resources.memory.kernel", Met, "the limit of memory counts the kernel's share too"},
		{"linux.resources.memory.kernelTCP", Met, "the limit of memory counts the buffers of sockets too"},
		{"linux.resources.memory.swappiness", Met, "the guest has no swap"},
		{"linux.resources.memory.disableOOMKiller", Refused, "cgroup v2, which the guest has, cannot; leave it out (--oom-kill-disable), " +
			"and protect a process by its oom_score_adj"},
		{"linux.resources.memory.useHierarchy", Met, "cgroup v2, which the guest has, always does"},
		{"linux.resources.memory.checkBeforeUpdate", Met, "nothing is used yet when the container is created"},
		{"linux.resources.cpu.shares", Guest, "among the guest's processes, and on the host among its"},
		{"linux.resources.cpu.quota", Guest, "and on the host, once the guest has booted; it sizes the guest's number of processors"},
		{"linux.resources.cpu.burst", Guest, "and on the host"},
		{"linux.resources.cpu.period", Guest, "and on the host"},
		{"linux.resources.cpu.realtimeRuntime", Refused, noRealtime + " (--cpu-rt-runtime)"},
		{"linux.resources.cpu.realtimePeriod", Refused, noRealtime + " (--cpu-rt-period)"},
		{"linux.resources.cpu.cpus", Host, "monitor and VMM run on them, and the guest has as many"},
		{"linux.resources.cpu.mems", Host, "the VMM's memory comes from these nodes"},
		{"linux.resources.cpu.idle", Guest, ""},
		{"linux.resources.pids.limit", Guest, ""},
		{"linux.resources.blockIO.weight", Host, vmmsIO},
		{"linux.resources.blockIO.leafWeight", Refused, "Linux has none since 5.0; give weight"},
		{"linux.resources.blockIO.weightDevice[].major", Host, vmmsIO},
		{"linux.resources.blockIO.weightDevice[].minor", Host, vmmsIO},
		{"linux.resources.blockIO.weightDevice[].weight", Host, vmmsIO},
		{"linux.resources.blockIO.weightDevice[].leafWeight", Refused, "Linux has none since 5.0; give weight"},
	}, throttle("throttleReadBpsDevice"), throttle("throttleWriteBpsDevice"), throttle("throttleReadIOPSDevice"),
	throttle("throttleWriteIOPSDevice"), []Field{
		{"linux.resources.hugepageLimits[].pageSize", Met, "the guest sets no huge pages aside, so that none are used"},
		{"linux.resources.hugepageLimits[].limit", Met, "the guest sets no huge pages aside, so that none are used"},
		{"linux.resources.network.classID", Refused,
			"the host sees no sockets of the guest's; mark the packets at the network's bridge instead"},
		{"linux.resources.network.priorities", Refused,
			"the host sees no sockets of the guest's; set the priority at the network's bridge instead"},
		{"linux.resources.rdma", Refused, "the guest has no RDMA device; leave it out"},
		{"linux.resources.unified", Guest, "files of the guest's cgroup: `cpu.*`, `memory.*`, `pids.*`"},
		{"linux.cgroupsPath", Host, "monitor and VMM are in this cgroup; the container's own is the guest's"},
		{"linux.namespaces[].type", Guest, "see [namespaces](#namespaces)"},
		{"linux.namespaces[].path", Host, "the network's only"},
		{"linux.devices[].path", Guest, "see [devices](#devices)"},
		{"linux.devices[].type", Guest, ""},
		{"linux.devices[].major", Guest, ""},
		{"linux.devices[].minor", Guest, ""},
		{"linux.devices[].fileMode", Guest, ""},
		{"linux.devices[].uid", Guest, ""},
		{"linux.devices[].gid", Guest, ""},
		{"linux.netDevices", Refused, "an interface of the host's does not move into a guest; " +
			"make it part of the container's network namespace before the start"},
		{"linux.seccomp.defaultAction", Guest, ""},
		{"linux.seccomp.defaultErrnoRet", Guest, ""},
		{"linux.seccomp.architectures", Guest, ""},
		{"linux.seccomp.flags", Guest, ""},
		{"linux.seccomp.listenerPath", Refused, noSeccompListener},
		{"linux.seccomp.listenerMetadata", Refused, noSeccompListener},
		{"linux.seccomp.syscalls[].names", Guest, ""},
		{"linux.seccomp.syscalls[].action", Guest, ""},
		{"linux.seccomp.syscalls[].errnoRet", Guest, ""},
		{"linux.seccomp.syscalls[].args[].index", Guest, ""},
		{"linux.seccomp.syscalls[].args[].value", Guest, ""},
		{"linux.seccomp.syscalls[].args[].valueTwo", Guest, ""},
		{"linux.seccomp.syscalls[].args[].op", Guest, ""},
		{"linux.rootfsPropagation", Guest, "between mounts of the guest's"},
		{"linux.maskedPaths", Guest, ""},
		{"linux.readonlyPaths", Guest, ""},
		{"linux.mountLabel", Met, "SELinux keeps a container from its host, as the microVM does; the guest has none"},
		{"linux.intelRdt", Refused, "put the VMM's cgroup into a class of resctrl(5) on the host instead"},
		{"linux.memoryPolicy", Refused, "the guest has one memory node; give linux.resources.cpu.mems for the host's"},
		{"linux.personality.domain", Guest, ""},
		{"linux.personality.flags", Refused, "Linux defines none; leave them out"},
		{"linux.timeOffsets", Refused, "the guest's crun sets none; leave them out"},

		{"solaris", Refused, otherPlatform},
		{"windows", Refused, otherPlatform},
		{"vm", Refused, "kernel and VMM are settings of RunCVM's own (kernel.path, vmm.path); leave it out"},
		{"zos", Refused, otherPlatform},
		{"freebsd", Refused, otherPlatform},
	})

func hook(name string, place Place, text string) []Field {
	at := "hooks." + name + "[]."
	return []Field{{at + "path", place, text}, {at + "args", place, ""}, {at + "env", place, ""}, {at + "timeout", place, ""}}
}

func throttle(name string) []Field {
	at := "linux.resources.blockIO." + name + "[]."
	return []Field{{at + "major", Host, vmmsIO}, {at + "minor", Host, vmmsIO}, {at + "rate", Host, vmmsIO}}
}

const (
	noUserNamespace = "leave the user namespace out (--userns, userns-remap): the guest's kernel is the container's alone, and its root " +
		"is nobody on the host"
	noSeccompListener = "a listener is a program of the host, which cannot answer for a guest's system calls; leave it out"
	noRealtime        = "the guest's kernel shares no real-time budget among cgroups; leave it out"
	vmmsIO            = "of the VMM"
	otherPlatform     = "the container is Linux's; leave it out"
)

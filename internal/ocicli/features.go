package ocicli

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/opencontainers/runtime-spec/specs-go/features"
	"github.com/spf13/cobra"

	"github.com/runcvm/runcvm/internal/guestapi"
	"github.com/runcvm/runcvm/internal/oci"
	"github.com/runcvm/runcvm/internal/version"
)

func (a *app) featuresCommand() *cobra.Command {
	return &cobra.Command{
		Use: "features", Short: "Print what a config.json may ask for", Args: exactArgs(0),
		RunE: func(*cobra.Command, []string) error {
			e := json.NewEncoder(a.stdout)
			e.SetIndent("", "    ")
			return e.Encode(featuresOf())
		},
	}
}

func featuresOf() *features.Features {
	yes, no := true, false
	return &features.Features{
		OCIVersionMin: "1.0.0", OCIVersionMax: specs.Version,
		Hooks: []string{"prestart", "createRuntime", "startContainer", "poststart", "poststop"},
		MountOptions: []string{
			"async", "atime", "bind", "defaults", "dev", "diratime", "dirsync", "exec", "lazytime", "loud", "mand", "noatime", "nodev",
			"nodiratime", "noexec", "nolazytime", "nomand", "norelatime", "nostrictatime", "nosuid", "private", "rbind", "relatime",
			"rprivate", "ro", "rw", "silent", "slave", "rslave", "strictatime", "suid", "sync", "tmpcopyup",
		},
		Linux: &features.Linux{
			Namespaces:   []string{"cgroup", "ipc", "mount", "network", "pid", "time", "uts"},
			Capabilities: oci.Capabilities(),
			Cgroup:       &features.Cgroup{V1: &yes, V2: &yes, Systemd: &yes, SystemdUser: &no, Rdma: &no},
			Seccomp: &features.Seccomp{
				Enabled: &yes,
				Actions: []string{
					"SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", "SCMP_ACT_KILL", "SCMP_ACT_KILL_PROCESS", "SCMP_ACT_KILL_THREAD", "SCMP_ACT_LOG",
					"SCMP_ACT_TRACE", "SCMP_ACT_TRAP",
				},
				Operators: []string{
					"SCMP_CMP_EQ", "SCMP_CMP_GE", "SCMP_CMP_GT", "SCMP_CMP_LE", "SCMP_CMP_LT", "SCMP_CMP_MASKED_EQ", "SCMP_CMP_NE",
				},
				Archs: []string{"SCMP_ARCH_X86", "SCMP_ARCH_X32", "SCMP_ARCH_X86_64"},
			},
			Apparmor: &features.Apparmor{Enabled: &no}, Selinux: &features.Selinux{Enabled: &no},
			IntelRdt:        &features.IntelRdt{Enabled: &no},
			MountExtensions: &features.MountExtensions{IDMap: &features.IDMap{Enabled: &no}},
			NetDevices:      &features.NetDevices{Enabled: &no},
		},
		Annotations: map[string]string{"dev.runcvm.version": version.String()},
	}
}

// exampleSpec is a specification to begin with: a shell with what Docker would give it.
func exampleSpec() *specs.Spec {
	c, err := oci.Resolve(ocispec.ImageConfig{}, oci.Options{Cmd: []string{"sh"}, Hostname: "runcvm", Terminal: true, ReadOnly: true})
	if err != nil {
		panic(err) // the same each time
	}
	s := oci.Spec(c)
	s.Version, s.Process.Args = specs.Version, c.Args
	s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.NetworkNamespace})
	maps.DeleteFunc(s.Annotations, func(key, _ string) bool { return strings.HasPrefix(key, guestapi.AnnotationPrefix) })
	s.Linux.Seccomp = nil // some hundred lines
	slices.SortFunc(s.Linux.Namespaces, func(x, y specs.LinuxNamespace) int { return strings.Compare(string(x.Type), string(y.Type)) })
	return s
}

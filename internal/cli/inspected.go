package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"syscall"
	"time"

	units "github.com/docker/go-units"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/runcvm/runcvm/internal/container"
	"github.com/runcvm/runcvm/internal/image"
	"github.com/runcvm/runcvm/internal/monitor"
	"github.com/runcvm/runcvm/internal/oci"
	"github.com/runcvm/runcvm/internal/sandbox"
)

// inspectedContainer is a container in docker inspect's words (moby, api/types/container).
type inspectedContainer struct {
	ID           string `json:"Id"`
	Created      string
	Path         string
	Args         []string
	State        inspectedState
	Image        string // the digest
	LogPath      string
	Name         string
	RestartCount int
	Driver       string
	Platform     string
	HostConfig   inspectedHostConfig
	Config       inspectedConfig
	SizeRw       *int64 `json:",omitempty"`
	RunCVM       inspectedRunCVM

	NetworkSettings inspectedNetworks
}

type inspectedState struct {
	Status     string
	Running    bool
	Paused     bool
	Restarting bool
	OOMKilled  bool
	Dead       bool
	Pid        int // the monitor's
	ExitCode   int
	Error      string
	StartedAt  string
	FinishedAt string
}

type inspectedHostConfig struct {
	Memory, MemoryReservation, MemorySwap int64
	NanoCpus                              int64
	CPUShares                             uint64 `json:"CpuShares"`
	CPUPeriod                             uint64 `json:"CpuPeriod"`
	CPUQuota                              int64  `json:"CpuQuota"`
	CpusetCpus                            string
	PidsLimit                             int64
	OomScoreAdj                           int
	ShmSize                               int64
	RestartPolicy                         inspectedRestartPolicy
	AutoRemove                            bool
	Privileged                            bool
	ReadonlyRootfs                        bool
	Init                                  bool
	CapAdd, CapDrop                       []string
	GroupAdd                              []string
	SecurityOpt                           []string
	Sysctls                               map[string]string
	Ulimits                               []string
	Tmpfs                                 []string
	Annotations                           map[string]string
	Runtime                               string
	inspectedHostNetwork
}

type inspectedRestartPolicy struct {
	Name              string
	MaximumRetryCount int
}

type inspectedConfig struct {
	Hostname    string
	Domainname  string
	User        string
	Tty         bool
	OpenStdin   bool
	Env         []string
	Cmd         []string
	Image       string
	WorkingDir  string
	Entrypoint  []string
	Labels      map[string]string
	StopSignal  string
	StopTimeout *int `json:",omitempty"`
}

// inspectedRunCVM is what Docker has no words for.
type inspectedRunCVM struct {
	VMM        container.VMM
	Kernel     string
	MonitorPid int
	Disk       string
	LogLost    int64
}

func (a *app) inspectContainer(e *container.Entry, withSize bool) (any, error) {
	var req monitor.Request
	if err := e.ReadRequest(&req); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	img, err := imageOf(e)
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // it was killed before it had one
		return nil, err
	}
	disk := filepath.Join(e.Dir, container.DiskFile)
	c := inspectedContainer{
		ID: e.PublicID(), Created: dockerTime(e.Created), State: stateOf(e), Image: e.ImageDigest,
		LogPath: filepath.Join(e.Dir, container.OutputLog), Name: "/" + e.Name, RestartCount: e.RestartCount,
		Driver: "erofs+ext4", Platform: "linux", HostConfig: hostConfigOf(e, req), Config: configOf(e, req, img),
		NetworkSettings: networksOf(e),
		RunCVM:          inspectedRunCVM{VMM: e.VMM, Kernel: e.Kernel, MonitorPid: e.Pid, Disk: disk, LogLost: e.LogLost},
	}
	if len(e.Command) > 0 {
		c.Path, c.Args = e.Command[0], e.Command[1:]
	}
	if withSize {
		size := onDisk(disk)
		c.SizeRw = &size
	}
	return c, nil
}

// onDisk is how many bytes a sparse file takes.
func onDisk(path string) int64 {
	info, err := os.Stat(path)
	if err != nil {
		return 0
	}
	const block = 512 // stat(2)
	return info.Sys().(*syscall.Stat_t).Blocks * block
}

// dockerTime is RFC 3339; the zero time is Docker's, too.
func dockerTime(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }

func stateOf(e *container.Entry) inspectedState {
	s := inspectedState{
		Status: dockerState(e), OOMKilled: e.OOMKilled, Pid: e.Pid, ExitCode: e.ExitCode, Error: e.Error,
		StartedAt: dockerTime(e.Started), FinishedAt: dockerTime(e.Finished),
	}
	s.Paused, s.Restarting = s.Status == string(sandbox.Paused), s.Status == container.Restarting
	s.Running = s.Paused || s.Restarting || s.Status == string(sandbox.Running)
	return s
}

func hostConfigOf(e *container.Entry, req monitor.Request) inspectedHostConfig {
	o := req.Options
	return inspectedHostConfig{
		Memory: o.Memory, MemoryReservation: o.MemoryReservation, MemorySwap: o.MemorySwap,
		NanoCpus: int64(math.Round(o.CPUs * 1e9)), CPUShares: o.CPUShares, CPUPeriod: o.CPUPeriod, CPUQuota: o.CPUQuota,
		CpusetCpus: o.CPUSet, PidsLimit: o.Pids, OomScoreAdj: o.OOMScoreAdj, ShmSize: orSize(o.ShmSize, 64*units.MiB),
		RestartPolicy: inspectedRestartPolicy{cmp.Or(req.Restart.Name, "no"), req.Restart.Max},
		AutoRemove:    e.Remove, Privileged: o.Privileged, ReadonlyRootfs: o.ReadOnly, Init: o.Init, CapAdd: o.CapAdd, CapDrop: o.CapDrop,
		GroupAdd: o.Groups, SecurityOpt: securityOptions(o), Sysctls: o.Sysctls, Ulimits: o.Ulimits, Tmpfs: o.Tmpfs,
		Annotations: o.Annotations, Runtime: "runcvm", inspectedHostNetwork: hostNetworkOf(req),
	}
}

func orSize(n, other int64) int64 {
	if n != 0 {
		return n
	}
	return other
}

func configOf(e *container.Entry, req monitor.Request, img image.Image) inspectedConfig {
	o, c := req.Options, img.Config.Config
	config := inspectedConfig{
		Hostname: cmp.Or(o.Hostname, container.Short(e.ID)), Domainname: o.Domainname, User: cmp.Or(o.User, c.User), Tty: o.Terminal,
		OpenStdin: req.Stdin, Cmd: o.Cmd, Image: e.Image, WorkingDir: cmp.Or(o.Cwd, c.WorkingDir), Entrypoint: o.Entrypoint,
		Labels: e.Labels, StopSignal: cmp.Or(o.StopSignal, c.StopSignal), StopTimeout: o.StopTimeout,
	}
	if spec, err := oci.Resolve(c, o); err == nil {
		config.Env = spec.Env
	}
	if o.Entrypoint == nil {
		config.Entrypoint = c.Entrypoint
		if len(o.Cmd) == 0 {
			config.Cmd = c.Cmd
		}
	}
	return config
}

// inspectedImage is an image in docker inspect's words.
type inspectedImage struct {
	ID           string `json:"Id"`
	RepoTags     []string
	RepoDigests  []string
	Created      string
	Author       string
	Config       ocispec.ImageConfig
	Architecture string
	Variant      string `json:",omitempty"`
	Os           string
	Size         int64
	RootFS       ocispec.RootFS
}

func (a *app) inspectImage(ctx context.Context, store *image.Store, img image.Image) (any, error) {
	all, err := store.List(ctx)
	if err != nil {
		return nil, err
	}
	i := inspectedImage{
		ID: img.Digest.String(), Created: dockerTime(img.Created), Author: img.Config.Author, Config: img.Config.Config,
		Architecture: img.Config.Architecture, Variant: img.Config.Variant, Os: img.Config.OS, Size: img.Size, RootFS: img.Config.RootFS,
		RepoTags: []string{}, RepoDigests: []string{},
	}
	for _, other := range all {
		if other.Digest == img.Digest {
			i.RepoTags = append(i.RepoTags, other.Name)
		}
	}
	return i, nil
}

// securityOptions are those of --security-opt that were given. A seccomp profile is shown as its text, as in Docker.
func securityOptions(o oci.Options) []string {
	var options []string
	if o.Seccomp != "" {
		options = append(options, "seccomp="+o.Seccomp)
	}
	if o.NoNewPrivileges {
		options = append(options, "no-new-privileges")
	}
	if o.OpenSystemPaths {
		options = append(options, "systempaths=unconfined")
	}
	if o.WritableCgroups != nil {
		options = append(options, fmt.Sprintf("writable-cgroups=%t", *o.WritableCgroups))
	}
	return options
}

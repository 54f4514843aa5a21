package cli

import (
	"strings"
	"testing"

	"github.com/runcvm/runcvm/internal/config"
)

// dockerRunFlags are all flags of docker run (docker/cli v28.5, cli/command/container/opts.go and run.go) with their short forms.
const dockerRunFlags = `
add-host annotation attach:a blkio-weight blkio-weight-device cap-add cap-drop cgroup-parent cgroupns cidfile cpu-count cpu-percent
cpu-period cpu-quota cpu-rt-period cpu-rt-runtime cpu-shares:c cpus cpuset-cpus cpuset-mems detach:d detach-keys device
device-cgroup-rule device-read-bps device-read-iops device-write-bps device-write-iops disable-content-trust dns dns-opt dns-option
dns-search domainname entrypoint env:e env-file expose gpus group-add health-cmd health-interval health-retries
health-start-interval health-start-period health-timeout help hostname:h init interactive:i io-maxbandwidth io-maxiops ip ip6 ipc
isolation kernel-memory label:l label-file link link-local-ip log-driver log-opt mac-address memory:m memory-reservation memory-swap
memory-swappiness mount name net net-alias network network-alias no-healthcheck oom-kill-disable oom-score-adj pid pids-limit
platform privileged publish:p publish-all:P pull quiet:q read-only restart rm runtime security-opt shm-size sig-proxy stop-signal
stop-timeout storage-opt sysctl tmpfs tty:t ulimit use-api-socket user:u userns uts volume:v volume-driver volumes-from workdir:w`

func testApp(t *testing.T) *app {
	t.Helper()
	cfg, err := config.Load(func(name string) (string, bool) { return "/dev/null", name == "RUNCVM_CONFIG" })
	if err != nil {
		t.Fatal(err)
	}
	return &app{cfg: cfg, flags: map[string]*string{}}
}

func TestEveryFlagOfDockerRunIsThereOrRefusedWithAReason(t *testing.T) {
	flags := testApp(t).runCommand().Flags()
	for entry := range strings.FieldsSeq(dockerRunFlags) {
		name, short, _ := strings.Cut(entry, ":")
		f := flags.Lookup(name)
		if f == nil {
			t.Errorf("--%s is neither there nor refused", name)
			continue
		}
		if f.Shorthand != short {
			t.Errorf("--%s has the short form %q, Docker's is %q", name, f.Shorthand, short)
		}
		v, refused := f.Value.(*refusedValue)
		if refused && (!f.Hidden || v.flag.instead == "") {
			t.Errorf("--%s is refused without a reason, or shown in the help", name)
		}
	}
	for _, r := range refusedFlags {
		if !strings.Contains(" "+strings.ReplaceAll(dockerRunFlags, "\n", " ")+" ", strings.TrimSuffix(" "+r.name+":"+r.short, ":")) {
			t.Errorf("--%s is refused, and no flag of Docker's", r.name)
		}
	}
}

func parse(t *testing.T, args ...string) (runFlags, error) {
	t.Helper()
	a := testApp(t)
	var f runFlags
	cmd := a.runCommandWith(&f)
	if err := cmd.ParseFlags(args); err != nil {
		return f, err
	}
	return f, a.request(cmd, &f, []string{"image", "true"})
}

func TestAFlagThatIsRefusedIsNamedWithWhatToDo(t *testing.T) {
	_, err := parse(t, "-v", "/a:/b", "--link", "x", "--gpus", "all", "--device=/dev/kvm", "--health-cmd", "x", "--oom-kill-disable",
		"--net=host", "--ipc", "host", "--pid", "container:x", "--cgroupns", "host", "--uts", "host", "--userns", "keep-id")
	if err == nil {
		t.Fatal("accepted")
	}
	for _, want := range []string{"--volume", "runcvm cp", "--link ", "--gpus", "--device is", "--privileged", "--health-cmd",
		"--oom-kill-disable", `--network host is`, `--ipc "host"`, `--pid "container:x"`, `--cgroupns "host"`, `--uts "host"`, `--userns "keep-id"`} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in:\n%v", want, err)
		}
	}
}

func TestAllFaultsOfTheOptionsAreReportedAtOnce(t *testing.T) {
	_, err := parse(t, "-m", "1m", "--cpus", "-1", "--pids-limit", "-5", "--ulimit", "nofile=9:3", "--ulimit", "x=1", "--cap-add", "fly", "--sysctl",
		"a", "--security-opt", "seccomp=/nonexistent", "--security-opt", "no-new-privileges=maybe", "--security-opt", "apparmor=mine",
		"--stop-signal", "SIGNO", "--stop-timeout", "-7", "--shm-size", "0", "--memory-swap", "x", "--cpuset-cpus", "3-1", "--cpu-shares", "1",
		"--oom-score-adj", "2000", "--group-add", "", "--annotation", "dev.runcvm.user=x", "--device-cgroup-rule", "c 1", "--label", "=x",
		"--cpu-period", "5", "--cpu-quota", "5")
	if err == nil {
		t.Fatal("accepted")
	}
	for _, want := range []string{"--memory 1048576: at least 6m", "--cpus -1: from 0.01 to 32", "--pids-limit -5", `--ulimit "nofile=9:3"`, `--ulimit "x=1"`,
		`--cap-add "fly"`, `--sysctl "a": write NAME=VALUE`, "/nonexistent", "true or false", "AppArmor", `--stop-signal "SIGNO"`, "--stop-timeout -7",
		"--shm-size: ", "--memory-swap: ", `--cpuset-cpus "3-1"`, "--cpu-shares 1: from 2", "--oom-score-adj 2000", `--group-add ""`,
		`--annotation "dev.runcvm.user"`, `--device-cgroup-rule "c 1"`, `--label "=x"`, "--cpu-period 5", "--cpu-quota 5"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in:\n%v", want, err)
		}
	}
}

func TestOptionsAreCarriedToTheContainer(t *testing.T) {
	f, err := parse(t, "-m", "64m", "--memory-swap", "-1", "--cpuset-cpus", "0", "--label", "a=b", "-l", "c", "--sysctl", "net.core.somaxconn=7",
		"--stop-timeout", "0", "--security-opt", "no-new-privileges", "--security-opt", "seccomp=unconfined", "--ipc", "none", "--annotation", "x=y=z",
		"--network", "none", "--disable-content-trust=false", "-h", "name", "--userns", "host")
	if err != nil {
		t.Fatal(err)
	}
	o := f.request.Options
	if o.Memory != 64<<20 || o.MemorySwap != -1 || o.VCPUs() != 1 || o.Labels["a"] != "b" || o.Annotations["x"] != "y=z" ||
		o.Sysctls["net.core.somaxconn"] != "7" || o.StopTimeout == nil || *o.StopTimeout != 0 || !o.NoNewPrivileges ||
		o.Seccomp != "unconfined" || !o.NoShm || o.Hostname != "name" {
		t.Errorf("%+v", o)
	}
	if v, ok := o.Labels["c"]; v != "" || !ok {
		t.Errorf("labels %v", o.Labels)
	}
}

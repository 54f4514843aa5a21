//go:build e2e

// Package privileged tests what a container may do with the guest's kernel: with --privileged all, its modules loaded when they are
// asked for; without, what runc's container may on a host, and no module more.
//
// There are two guests, one with the privilege and one without, and the same actions in both; and runc's container without it.
package privileged

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/runcvm/runcvm/test/control"
	"github.com/runcvm/runcvm/test/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }

// action is one thing that needs the kernel's help.
type action struct {
	name string
	// script prints a line for the test on success.
	script string
	want   string
	// module, where there is one, must be loaded afterwards, and only where the action is allowed.
	module string
	// refused is what the program says without the privilege, under RunCVM and under runc with Docker's defaults: one of these, by |.
	refused string
}

var actions = []action{
	{"nft rules", `nft add table inet t && nft add chain inet t c '{ type filter hook input priority 0; policy accept; }' &&
		nft add rule inet t c tcp dport 81 ct state new log drop && nft add table ip n && nft add chain ip n p '{ type nat hook postrouting priority 100; }' &&
		nft add rule ip n p oifname eth0 masquerade && nft list ruleset | grep -c -e 'ct state new log drop' -e 'masquerade'`,
		"2", "nf_tables", "Operation not permitted"},
	{"a bridge", `ip link add br0 type bridge && ip link add v0 type veth peer name v1 && ip link set v0 master br0 && ip link set br0 up &&
		ip link set v0 up && ip link set v1 up && ip -o link show master br0 | grep -c v0`,
		"1", "bridge", "Operation not permitted"},
	{"wireguard", `umask 077; wg genkey >/tmp/key && ip link add wg0 type wireguard && wg set wg0 private-key /tmp/key listen-port 51820 &&
		ip address add 10.9.9.1/24 dev wg0 && ip link set wg0 up && wg show wg0 listen-port`,
		"51820", "wireguard", "Operation not permitted"},
	{"a loop mount", `truncate -s 16M /tmp/disk && mke2fs -q -t ext4 /tmp/disk && mkdir -p /mnt/loop && mount -o loop /tmp/disk /mnt/loop &&
		echo written >/mnt/loop/file && umount /mnt/loop && mount -o loop,ro /tmp/disk /mnt/loop && cat /mnt/loop/file`,
		"written", "loop", "failed to setup loop device|permission denied|Operation not permitted"},
	{"an overlay mount", `mkdir -p /mnt/ovl && mount -t tmpfs none /mnt/ovl && cd /mnt/ovl && mkdir lower upper work merged && echo low >lower/file &&
		mount -t overlay overlay -o lowerdir=lower,upperdir=upper,workdir=work merged && echo up >merged/other && cat merged/file upper/other | tr '\n' ' '`,
		"low up ", "" /* the boot needs it in any guest */, "permission denied|Operation not permitted"},
	{"a tun device", `ip tuntap add dev tap7 mode tap && ip -o link show tap7 | grep -c tap7`,
		"1", "tun", "No such file or directory|Operation not permitted"},
	// A cgroup that has processes passes no controller on, so they move first; some end meanwhile. Under runc on a host with cgroup v1 each
	// controller has a directory.
	{"nested cgroups", `cd /sys/fs/cgroup/pids 2>/dev/null || cd /sys/fs/cgroup; mkdir inner && for p in $(cat cgroup.procs); do echo $p >inner/cgroup.procs; done 2>/dev/null
		echo +pids +memory >cgroup.subtree_control && mkdir child && echo 10 >child/pids.max && cat child/pids.max`,
		"10", "", "Read-only file system"},
}

// script runs every action in a shell of its own, and prints for each a line "== NAME", its output, and "-- CODE".
func script() string {
	var b strings.Builder
	for _, a := range actions {
		fmt.Fprintf(&b, "echo '== %s'; (%s) 2>&1; echo \"-- $?\"\n", a.name, a.script)
	}
	b.WriteString("echo '== modules'; cut -d' ' -f1 /proc/modules; echo '-- 0'\n")
	b.WriteString("echo '== log'; dmesg 2>&1 | grep -i 'runcvm: module'; echo '-- 0'\n")
	return b.String()
}

// answer is what an action printed, and its exit code.
type answer struct {
	output string
	code   string
}

func parse(t *testing.T, text string) map[string]answer {
	t.Helper()
	answers := map[string]answer{}
	for part := range strings.SplitSeq(text, "== ") {
		name, rest, _ := strings.Cut(part, "\n")
		output, code, found := strings.Cut(rest, "-- ")
		if found {
			answers[name] = answer{strings.TrimSuffix(output, "\n"), strings.TrimSpace(code)}
		}
	}
	return answers
}

func TestAPrivilegedContainerLoadsTheModulesThatItNeeds(t *testing.T) {
	h := harness.New(t)
	text := h.MustRun("run", "--rm", "--privileged", h.Tools(), "sh", "-c", script())
	answers := parse(t, text)
	modules := strings.Fields(answers["modules"].output)
	for _, a := range actions {
		if got := answers[a.name]; got.code != "0" || got.output != a.want {
			t.Errorf("%s: exit code %s, %q; want %q", a.name, got.code, got.output, a.want)
		}
		if a.module != "" && !slices.Contains(modules, a.module) {
			t.Errorf("%s: module %s is not loaded", a.name, a.module)
		}
	}
	if t.Failed() {
		t.Log(answers["log"].output)
	}
}

func TestWithoutThePrivilegeEachIsRefusedAsUnderRuncAndLoadsNothing(t *testing.T) {
	h := harness.New(t)
	tools := h.Tools()
	runc := parse(t, string(control.New(t, os.Getenv("RUNCVM_TEST_TOOLS_IMAGE")).Run(t, []string{"sh", "-c", script()}, "", nil)))
	answers := parse(t, h.MustRun("run", "--rm", tools, "sh", "-c", script()))
	modules := strings.Fields(answers["modules"].output)
	for _, a := range actions {
		got, want := answers[a.name], runc[a.name]
		if got.code == "0" || got.code != want.code {
			t.Errorf("%s: exit code %q, runc's %q: %q", a.name, got.code, want.code, got.output)
		}
		// Texts name devices, and one error can be another's on another kernel.
		if !says(got.output, a.refused) || !says(want.output, a.refused) {
			t.Errorf("%s: one of %q is wanted\n%q\nrunc's\n%q", a.name, a.refused, got.output, want.output)
		}
		if slices.Contains(modules, a.module) {
			t.Errorf("%s: module %s is loaded", a.name, a.module)
		}
	}
}

func says(output, alternatives string) bool {
	for want := range strings.SplitSeq(alternatives, "|") {
		if strings.Contains(output, want) {
			return true
		}
	}
	return false
}

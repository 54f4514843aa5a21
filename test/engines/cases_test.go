//go:build e2e

package engines

import "github.com/runcvm/runcvm/test/engines/engine"

// A container's stop signal, in the shell's words: it tells of it and ends with 3.
const untilTerm = `trap "echo bye; exit 3" TERM; while :; do sleep 0.1; done`

// Servers of the loopback addresses, and an echo, in the shell's words.
const onLoopback = `mkdir /4 /6; echo by IPv4 >/4/index.html; echo by IPv6 >/6/index.html
httpd -p 127.0.0.1:8080 -h /4; httpd -p [::1]:8080 -h /6; exec nc -ll -p 8081 -e cat`

// byDNS asks for what is behind two names: one that only the host's name server knows, and one whose answer comes by TCP.
const byDNS = "wget -q -O - http://private.example/; wget -q -O - http://tcp.example/"

// Begin commands that the host runs in a container's network namespace.
const (
	inNamespace  = "nsenter -n -t $(ENGINE inspect -f {{.State.Pid}} @) "
	inNamespace2 = "nsenter -n -t $(ENGINE inspect -f {{.State.Pid}} @-b) "
)

// heldLimits prints what a container's cgroup holds of processor time, memory and processes, by the files of either version.
const heldLimits = `cd /sys/fs/cgroup; if test -f cpu.max; then cat cpu.max memory.max pids.max; else
	cat cpu/cpu.cfs_quota_us cpu/cpu.cfs_period_us memory/memory.limit_in_bytes pids/pids.max; fi | xargs`

var cases = []testCase{
	{name: "run", steps: []step{
		{run: `run --rm --name @ IMAGE sh -c 'echo out; echo err >&2; exit 7'`, code: 7, out: "out", err: "err"},
		{name: "--rm leaves no container", run: "ps -aq --filter name=@", out: nothing},
	}},
	{name: "input", steps: []step{
		{run: "run --rm -i --name @ IMAGE sh -c 'cat; echo end'", input: "a line\nan end without one", out: "a line\nan end without oneend"},
	}},
	// The size of a terminal is set a moment after the start.
	{name: "terminal", steps: []step{
		{run: `run --rm -it --name @ IMAGE sh -c 'echo ready; read x; echo got $x on $(tty); until stty size | grep "33 99"; do sleep 0.1; done'`, input: "typed\n", tty: true,
			out: "*got typed on /dev/pts/0\n*33 99"},
	}},
	{name: "missing", steps: []step{
		{run: "run --rm --name @ IMAGE /no/such/program", code: 127, err: "*no such file or directory*"},
		{run: "run --rm --name @-b IMAGE /etc/passwd", code: 126, err: "*ermission denied*"},
	}},
	{name: "life", steps: []step{
		{run: `run -d --name @ --stop-timeout 20 -e A=1 -w /tmp -u 1000:1000 IMAGE sh -c 'echo started; ` + untilTerm + `'`, out: "*"},
		{name: "logs", run: "logs @", out: "started", until: true},
		{name: "inspect running", run: "inspect -f '{{.State.Running}} {{.State.Status}}' @", out: "true running"},
		{name: "exec", run: `exec -e X=2 @ sh -c 'echo $A $X $(id -u):$(id -g) $(pwd)'`, out: "1 2 1000:1000 /tmp"},
		{name: "exec -u -w", run: `exec -u 0 -w /bin @ sh -c 'echo $(id -u) $(pwd); exit 5'`, code: 5, out: "0 /bin"},
		{name: "exec -i", run: "exec -i @ cat", input: "through exec\n", out: "through exec"},
		{name: "exec -it", run: `exec -it @ sh -c 'echo ready; read x; echo got $x; until stty size | grep "33 99"; do sleep 0.1; done'`, input: "typed\n", tty: true, out: "*got typed\n*33 99"},
		// Docker before 23 has 126 here, with any runtime.
		{name: "exec of a missing program", run: "exec @ /no/such", code: 126, kinds: []engine.Kind{engine.DebianDocker}},
		{name: "exec of a missing program", run: "exec @ /no/such", code: 127, kinds: []engine.Kind{engine.CurrentDocker, engine.Podman}},
		{name: "exec -d", run: "exec -d @ sh -c 'echo here >/tmp/detached'"},
		{name: "what exec -d did", run: "exec @ cat /tmp/detached", out: "here", until: true},
		{name: "top", run: "top @", out: "*sh -c*"},
		{name: "stats", host: `ENGINE stats --no-stream --format '{{.Name}} {{.PIDs}} {{.MemUsage}}' @ |
			awk '{ print $1, ($2 > 3 ? "many" : $2 > 0 ? "few" : "no"), "tasks", ($3 + 0 > 0 ? "memory" : "no memory") }'`, out: "@ few tasks memory"},
		{name: "pause", run: "pause @", out: "*"},
		{name: "inspect paused", run: "inspect -f '{{.State.Status}}' @", out: "paused"},
		{name: "exec in a paused one", run: "exec @ true", code: 1, err: "*paused*", kinds: dockers},
		{name: "unpause", run: "unpause @", out: "*"},
		{name: "exec after unpause", run: "exec @ echo again", out: "again"},
		{name: "stop with grace", run: "stop @", out: "*"},
		{name: "inspect stopped", run: "inspect -f '{{.State.Status}} {{.State.ExitCode}} {{.State.OOMKilled}}' @", out: "exited 3 false"},
		{name: "logs of the end", run: "logs @", out: "started\nbye"},
		{name: "start", run: "start @", out: "*"},
		{name: "logs of both lives", run: "logs @", out: "started\nbye\nstarted", until: true},
		{name: "what was written is there", run: "exec @ cat /tmp/detached", out: "here"},
		{name: "restart", run: "restart @", out: "*"},
		{name: "logs of three lives", run: "logs @", out: "started\nbye\nstarted\nbye\nstarted", until: true},
		{name: "kill", run: "kill @", out: "*"},
		{name: "wait", run: "wait @", out: "137"},
		{name: "inspect killed", run: "inspect -f '{{.State.Status}} {{.State.ExitCode}}' @", out: "exited 137", until: true},
		{name: "rm", run: "rm @", out: "*"},
		{name: "inspect removed", run: "inspect @", code: 1, kinds: dockers},
	}},
	{name: "limits", steps: []step{
		{run: "run -d --name @ --cpu-period 50000 --cpu-quota 25000 --memory 100m --memory-swap 200m --pids-limit 90 IMAGE sh -c '" + heldLimits + "; exec sleep 1000'", out: "*"},
		{name: "logs", run: "logs @", out: "25000 50000 104857600 90", until: true},
		{name: "update", run: "update --cpu-quota 40000 --memory 80m --pids-limit 70 @", out: "*", kinds: dockers},
		{name: "exec", run: "exec @ sh -c '" + heldLimits + "'", out: "40000 50000 83886080 70", kinds: dockers},
		// Podman before 4.6 changes no limit of processes.
		{name: "update", run: "update --cpu-quota 40000 --memory 80m @", out: "*", kinds: onlyPodman},
		{name: "exec", run: "exec @ sh -c '" + heldLimits + "'", out: "40000 50000 83886080 90", kinds: onlyPodman},
		{name: "update --cpu-period", run: "update --cpu-period 80000 @", out: "*"},
		{name: "exec", run: "exec @ sh -c '" + heldLimits + "'", out: "40000 80000 83886080 *"},
		{name: "inspect", run: "inspect -f '{{.HostConfig.CpuQuota}} {{.HostConfig.CpuPeriod}} {{.HostConfig.Memory}}' @", out: "40000 80000 83886080", kinds: dockers},
		{name: "update beyond the guest", host: "ENGINE update --cpu-quota 90000 --memory 150m @ 2>&1; echo code $?; ENGINE exec @ sh -c '" + heldLimits + "'",
			out: "*\ncode 0\n90000 80000 157286400 *"},
	}},
	{name: "cpus", steps: []step{
		{run: "run --name @ --cpus 0.5 --memory 64m IMAGE sh -c '" + heldLimits + "'", out: "50000 100000 67108864 *"},
		// Docker keeps it for the next start.
		{name: "update --cpus", run: "update --cpus 0.75 @", out: "*", kinds: dockers},
		{name: "start", run: "start -a @", out: "75000 100000 67108864 *", kinds: dockers},
	}},
	{name: "signal", steps: []step{
		{run: `run -d --name @ IMAGE sh -c 'trap "echo usr1; exit 9" USR1; echo ready; while :; do sleep 0.1; done'`, out: "*"},
		{name: "ready", run: "logs @", out: "ready", until: true},
		{name: "kill -s USR1", run: "kill -s USR1 @", out: "*"},
		{name: "wait", run: "wait @", out: "9"},
		{name: "logs", run: "logs @", out: "ready\nusr1"},
	}},
	{name: "logs-follow", steps: []step{
		{run: "run -d --name @ IMAGE sh -c 'for i in 1 2 3; do echo line $i; sleep 0.5; done; echo to stderr >&2'", out: "*"},
		{name: "logs -f", run: "logs -f @", out: "line 1\nline 2\nline 3", err: "to stderr"},
	}},
	{name: "attach", steps: []step{
		{run: "run -d -i --name @ IMAGE sh -c 'read x; echo got $x; exit 4'", out: "*"},
		// Docker lets go of the output when the input ends, so it does not end before the container.
		{name: "attach", host: `{ echo by attach; until ENGINE inspect -f '{{.State.Status}}' @ | grep -q exited; do sleep 0.1; done; } | ENGINE attach @`,
			code: 4, out: "got by attach", kinds: dockers},
		// Podman's attach may end before the container's exit code is known.
		{name: "attach", run: "attach @", input: "by attach\n", anyCode: true, out: "got by attach*", kinds: onlyPodman},
		{name: "inspect", run: "inspect -f {{.State.ExitCode}} @", out: "4", until: true},
		{name: "logs", run: "logs @", out: "got by attach", until: true},
	}},
	{name: "oom", steps: []step{
		{run: "run --name @ --memory 64m --memory-swap 64m IMAGE dd if=/dev/zero of=/dev/null bs=100M", code: 137},
		{name: "inspect", run: "inspect -f '{{.State.ExitCode}} {{.State.OOMKilled}} {{.HostConfig.Memory}}' @", out: "137 true 67108864", kinds: dockers},
		// Podman before 5.0 looks in another directory for conmon's report of it than conmon writes to, which is podman's working directory.
		{name: "inspect", run: "inspect -f '{{.State.ExitCode}} {{.State.OOMKilled}} {{.HostConfig.Memory}}' @", out: "137 false 67108864", kinds: onlyPodman},
		{name: "report", host: `n=@; d=$(mktemp -d); cd $d; ENGINE --runtime ${n#oom-} run --name @-b --memory 64m --memory-swap 64m IMAGE dd if=/dev/zero of=/dev/null bs=100M; echo $? $(ls); rm -r $d`,
			out: "137 oom", kinds: onlyPodman},
	}},
	{name: "restart-policy", steps: []step{
		{run: "run -d --name @ --restart on-failure:2 IMAGE sh -c 'echo again; exit 6'", out: "*"},
		{name: "logs", run: "logs @", out: "again\nagain\nagain", until: true},
		{name: "inspect", run: "inspect -f '{{.RestartCount}} {{.State.Status}} {{.State.ExitCode}}' @", out: "2 exited 6", until: true},
	}},
	{name: "healthcheck", steps: []step{
		{run: "run -d --name @ --health-cmd 'test -f /ok' --health-interval 1s --health-retries 1 IMAGE sleep 1000", out: "*"},
		{name: "unhealthy", run: "inspect -f {{.State.Health.Status}} @", out: "unhealthy", until: true, kinds: dockers},
		{name: "exec", run: "exec @ touch /ok"},
		{name: "healthy", run: "inspect -f {{.State.Health.Status}} @", out: "healthy", until: true, kinds: dockers},
		{name: "healthcheck run", run: "healthcheck run @", kinds: onlyPodman},
	}},
	// Its first check hangs. Podman has systemd run its checks.
	{name: "healthcheck-timeout", kinds: dockers, steps: []step{
		{run: `run -d --name @ --health-cmd 'test -e /hangs && exit 1; echo $$ >/hangs; exec sleep 1000' --health-timeout 1s --health-interval 1s --health-retries 1 IMAGE sleep 1000`, out: "*"},
		{name: "unhealthy", run: "inspect -f {{.State.Health.Status}} @", out: "unhealthy", until: true},
		{name: "its log", run: "inspect -f '{{(index .State.Health.Log 0).Output}}' @", out: "Health check exceeded timeout (1s)*"},
		{name: "it is gone", run: `exec @ sh -c 'kill -0 $(cat /hangs) 2>/dev/null || echo gone'`, out: "gone", until: true},
	}},
	{name: "init", steps: []step{
		{run: "run --rm --init --name @ IMAGE sh -c 'cat /proc/1/comm; exit 8'", code: 8, out: "docker-init|tini-static|podman-init|init"},
	}},
	{name: "events", steps: []step{
		{run: "run --name @ IMAGE true"},
		{name: "events", run: "events --since 10m --until 0s --filter container=@ --format {{.Action}}", out: "create\nattach\nstart\ndie",
			until: true, kinds: dockers},
	}},
	{name: "options", steps: []step{
		{run: `run --rm --name @ --read-only --tmpfs /t:size=1m,mode=750 --cap-drop ALL --cap-add CHOWN --ulimit nofile=100:200 --ulimit nproc=1000 --hostname name
			--add-host other:10.1.2.3 --dns 198.18.0.99 --shm-size 2m IMAGE sh -c '
			touch /x 2>/dev/null || echo read-only; stat -c %a /t; df -k /t | awk "END{print \$2}"; grep CapBnd /proc/self/status; ulimit -n; ulimit -Hn; awk "/Max processes/{print \$3, \$4}" /proc/self/limits
			hostname; grep -c other /etc/hosts; grep ^nameserver /etc/resolv.conf; df -k /dev/shm | awk "END{print \$2}"'`,
			out: "read-only\n750\n1024\nCapBnd:\t0000000000000001\n100\n200\n1000 1000\nname\n1\nnameserver 198.18.0.99\n2048"},
	}},
	{name: "names", steps: []step{
		{run: "network create --ipv6 --subnet SUBNET4 --subnet SUBNET6 @", out: "*"},
		{run: `run -d --name @ --network @ IMAGE sh -c 'echo hello from $(hostname -i | wc -w) >/tmp/index.html; exec httpd -f -p 8080 -h /tmp'`, out: "*"},
		{name: "by name", run: "run --rm --name @-b --network @ IMAGE sh -c 'until wget -q -O - http://@:8080/; do sleep 0.2; done'", out: "hello from *", err: "*"},
		{name: "an answer by TCP, and none", run: `run --rm --name @-b --network @ IMAGE sh -c 'wget -q -O - http://tcp.example/; wget -q -O - http://private.example/'`,
			code: 1, out: "hello from outside to *", err: "*bad address*"},
		// Docker's own resolver answers, and asks those of --dns for what is no container's name.
		{name: "--dns", run: `run --rm --name @-b --network @ --dns 198.18.0.2 IMAGE sh -c 'grep ^nameserver /etc/resolv.conf; ` + byDNS + `; wget -q -O - http://@:8080/'`,
			out: "nameserver 127.0.0.11\nhello from outside to *\nhello from outside to *\nhello from *", kinds: dockers},
		// Podman has them take the network's place.
		{name: "--dns", run: `run --rm --name @-b --network @ --dns 198.18.0.2 IMAGE sh -c 'grep ^nameserver /etc/resolv.conf; ` + byDNS + `'`,
			out: "nameserver 198.18.0.2\nhello from outside to *\nhello from outside to *", kinds: onlyPodman},
	}},
	{name: "outside", steps: []step{
		{run: `run --rm --name @ IMAGE sh -c 'wget -q -O - http://outside.example/; wget -q -O - http://198.18.0.1/; wget -q -O - http://tcp.example/'`,
			out: "hello from outside to *\nhello from outside to 198.18.0.2\nhello from outside to *"},
	}},
	{name: "ipv6", steps: []step{
		{run: "network create --ipv6 --subnet SUBNET4 --subnet SUBNET6 @", out: "*"},
		{run: `run -d --name @ --network @ IMAGE sh -c 'wget -q -O - http://[fd00:198::1]/; wget -q -O - http://outside6.example/; echo hello >/tmp/index.html; exec httpd -f -p [::]:8080 -h /tmp'`, out: "*"},
		{name: "to the outside", run: "logs @", out: "hello from outside to fd00:198::2\nhello from outside to fd00:198::2", until: true},
		{name: "from the host", host: `busybox wget -q -O - http://[$(ENGINE inspect -f '{{range .NetworkSettings.Networks}}{{.GlobalIPv6Address}}{{end}}' @)]:8080/`, out: "hello", until: true},
	}},
	{name: "bind", steps: []step{
		{name: "a file of the host", host: "mkdir /tmp/@ && echo on the host >/tmp/@/file"},
		{run: "run --rm --name @ -v /tmp/@:/d:ro IMAGE sh -c 'cat /d/file; touch /d/new 2>/dev/null || echo read-only'", out: "on the host\nread-only"},
		{name: "nothing was written", host: "ls /tmp/@; rm -r /tmp/@", out: "file"},
	}},
	{name: "user", steps: []step{
		{run: `run -d --name @ -u user --group-add audio --group-add 1234 --cap-drop ALL IMAGE sh -c 'id; trap "" TERM; echo deaf; while :; do sleep 0.1; done'`, out: "*"},
		{name: "logs", run: "logs @", out: "uid=1000(user) gid=1000(user) groups=*29(audio)*1234*\ndeaf", until: true},
		{name: "exec -u NAME", run: "exec -u root:audio @ id -gn", out: "audio"},
		// What the engine has itself; Docker asks for all, which runc cannot give where the machine has fewer.
		{name: "exec --privileged", run: "exec --privileged @ grep CapBnd /proc/self/status", out: "CapBnd:\t000001ff*ffffff", kinds: onlyPodman},
		{name: "stop of one that ignores it", run: "stop -t 1 @", out: "*"},
		{name: "inspect", run: "inspect -f '{{.State.Status}} {{.State.ExitCode}}' @", out: "exited 137"},
	}},
	// As a port-forward reaches it: from the container's network namespace, which is the host's, at what listens on the loopback addresses only.
	{name: "loopback", steps: []step{
		{run: `run -d --name @ IMAGE sh -c '` + onLoopback + `'`, out: "*"},
		{name: "IPv4", host: inNamespace + "busybox wget -q -O - http://127.0.0.1:8080/", out: "by IPv4", until: true},
		{name: "IPv6", host: inNamespace + "busybox wget -q -O - http://[::1]:8080/", out: "by IPv6"},
		// The end of what is sent comes before that of what is received.
		{name: "much, both ways", host: `test "$(seq 100000 | cksum)" = "$(seq 100000 | ` + inNamespace + `busybox nc 127.0.0.1 8081 | cksum)"`, until: true},
		{name: "a port without a server", host: inNamespace + "busybox wget -q -O - http://127.0.0.1:8082/", code: 1, out: nothing},
		{name: "the container's address", host: `busybox wget -q -O - http://$(ENGINE inspect -f {{.NetworkSettings.IPAddress}} @):8080/`, code: 1, out: nothing},
		{name: "a container without a network", run: `run -d --name @-b --network none IMAGE sh -c '` + onLoopback + `'`, out: "*"},
		{name: "reached as well", host: inNamespace2 + "busybox wget -q -O - http://127.0.0.1:8080/", out: "by IPv4", until: true},
	}},
	{name: "copy", steps: []step{
		{name: "create", run: "create --name @ IMAGE sh -c 'cat /copied'", out: "*"},
		{name: "cp", run: "cp /etc/debian_version @:/copied"},
		{name: "start -a", run: "start -a @", out: "12.*"},
	}},
	{name: "publish", steps: []step{
		{run: `run -d --name @ -p PORT1:8080 -p PORT2:8081/udp IMAGE sh -c 'echo hello >/tmp/index.html; httpd -p 8080 -h /tmp; exec udpecho :8081'`, out: "*"},
		{name: "TCP from the host", host: "busybox wget -q -O - http://198.18.0.2:PORT1/", out: "hello", until: true},
		{name: "TCP from the host's loopback", host: "busybox wget -q -O - http://127.0.0.1:PORT1/", out: "hello"},
		{name: "TCP from outside", outside: "busybox wget -q -O - http://198.18.0.2:PORT1/", out: "hello"},
		{name: "UDP from outside", outside: "UDPECHO 198.18.0.2:PORT2 datagram", out: "datagram"},
		{name: "UDP from the host", host: "UDPECHO 198.18.0.2:PORT2 datagram", out: "datagram"},
		{name: "UDP from the host's loopback", host: "UDPECHO 127.0.0.1:PORT2 datagram", out: "datagram"},
	}},
	{name: "publish6", steps: []step{
		{run: "network create --ipv6 --subnet SUBNET4 --subnet SUBNET6 @", out: "*"},
		{run: `run -d --name @ --network @ -p PORT1:8080 -p PORT2:8081/udp IMAGE sh -c 'echo hello >/tmp/index.html; httpd -p [::]:8080 -h /tmp; exec udpecho :8081'`, out: "*"},
		{name: "TCP from the host", host: "busybox wget -q -O - http://[fd00:198::2]:PORT1/", out: "hello", until: true},
		{name: "TCP from outside", outside: "busybox wget -q -O - http://[fd00:198::2]:PORT1/", out: "hello"},
		{name: "UDP from outside", outside: "UDPECHO [fd00:198::2]:PORT2 datagram", out: "datagram"},
		{name: "UDP from the host", host: "UDPECHO [fd00:198::2]:PORT2 datagram", out: "datagram"},
	}},
}

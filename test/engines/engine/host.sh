#!/bin/bash
# PID 1 of an engine's host: namespaces of its own for everything that an engine changes. It ends, and with it all processes here, when
# its standard input ends.
#
#   host.sh NAME DIR INIT   NAME: of its cgroup in each hierarchy; DIR: for what would be in /etc and /var/lib; INIT: systemd, which
#                           then becomes PID 1, or none
set -euo pipefail
name=$1 dir=$2 init=$3

if [[ ${4:-} != inside ]]; then
  # A cgroup namespace begins at the cgroup that a process is in when it makes one.
  while read -r mount; do
    mkdir "$mount/$name"
    for file in cpuset.cpus cpuset.mems; do # empty ones take no process (cgroup v1)
      [[ ! -f $mount/$file ]] || cat "$mount/$file" >"$mount/$name/$file"
    done
    echo $$ >"$mount/$name/cgroup.procs"
  done < <(awk '$3 == "cgroup" || $3 == "cgroup2" { print $2 }' /proc/mounts)
  exec unshare --cgroup "$BASH" "$0" "$name" "$dir" "$init" inside
fi

cgroups=$(awk '$3 == "cgroup" || $3 == "cgroup2" { print $3, $2, $4 }' /proc/mounts)
mount --make-rprivate /
mount -t proc proc /proc
mount -t sysfs sysfs /sys
[[ $cgroups == cgroup2\ /sys/fs/cgroup\ * ]] || mount -t tmpfs -o mode=755 tmpfs /sys/fs/cgroup
while read -r type mount options; do
  mkdir -p "$mount"
  # What is left of the options are the controllers, or the hierarchy's name, which implies none.
  options=$(tr , '\n' <<<"$options" | sed -E '/^(rw|ro|nosuid|nodev|noexec|relatime|noatime|xattr|clone_children|nsdelegate|memory_recursiveprot|release_agent=.*)$/d' | paste -sd,)
  [[ $options != name=* ]] || options=none,$options
  mount -t "$type" ${options:+-o "$options"} "$type" "$mount"
  if [[ $type == cgroup2 && $mount == /sys/fs/cgroup && $init == none ]]; then
    # Only a cgroup without processes hands controllers down.
    mkdir "$mount/init"
    echo $$ >"$mount/init/cgroup.procs"
    for c in $(<"$mount/cgroup.controllers"); do echo "+$c" >"$mount/cgroup.subtree_control"; done
  fi
done <<<"$cgroups"
mount -t tmpfs -o mode=755 tmpfs /run
for d in etc var/lib; do
  mkdir -p "$dir/$d/upper" "$dir/$d/work"
  mount -t overlay -o "lowerdir=/$d,upperdir=$dir/$d/upper,workdir=$dir/$d/work" overlay "/$d"
done
hostname engines

# The rest of the world: a neighbour with a name server and a web server, which the tests run.
ip link set lo up
ip netns add outside
ip link add eth0 type veth peer name eth0 netns outside
ip addr add 198.18.0.2/24 dev eth0
ip addr add fd00:198::2/64 dev eth0 nodad
ip link set eth0 up
ip route add default via 198.18.0.1
ip -6 route add default via fd00:198::1
ip -n outside link set lo up
ip -n outside addr add 198.18.0.1/24 dev eth0
ip -n outside addr add fd00:198::1/64 dev eth0 nodad
ip -n outside link set eth0 up
rm -f /etc/resolv.conf
echo "nameserver 198.18.0.1" >/etc/resolv.conf

echo ready
exec 1>&-
if [[ $init == systemd ]]; then
  # Nobody but systemd itself can end it from in here; this signal is its "poweroff at once" (systemd(1)).
  exec 3<&0
  # It outlives signals to the test's process group.
  { trap '' TERM INT HUP; read -r _ || true; kill -s SIGRTMIN+14 1; } <&3 &
  exec 3<&-
  # Nothing that systemd starts on a machine may run here: disks, devices, /tmp and the kernel's settings are the machine's.
  mkdir -p /run/systemd/system-generators /etc/systemd/system
  for generator in /usr/lib/systemd/system-generators/*; do ln -s /dev/null "/run/systemd/system-generators/${generator##*/}"; done
  for unit in {sysinit,basic,local-fs,multi-user}.target {tmp,dev-hugepages,dev-mqueue}.mount systemd-{tmpfiles-{setup,setup-dev,clean},sysctl,udevd,udev-trigger,journald,logind,remount-fs}.service \
      systemd-{tmpfiles-clean.timer,journald.socket,udevd-{kernel,control}.socket}; do
    ln -sf /dev/null "/etc/systemd/system/$unit"
  done
  unit() { printf '%s\n' "${@:2}" >"/etc/systemd/system/$1"; }
  unit engine-host.target '[Unit]' DefaultDependencies=no Requires=dbus.service After=dbus.service
  unit dbus.socket '[Unit]' DefaultDependencies=no '[Socket]' ListenStream=/run/dbus/system_bus_socket
  unit dbus.service '[Unit]' DefaultDependencies=no Requires=dbus.socket '[Service]' Type=notify \
    'ExecStart=/usr/bin/dbus-daemon --system --address=systemd: --nofork --nopidfile --systemd-activation'
  exec env -i container=runcvm-test PATH="$PATH" /lib/systemd/systemd --unit=engine-host.target --show-status=no --log-target=null </dev/null
fi
read -r _ || true

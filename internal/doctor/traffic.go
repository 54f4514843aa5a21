package doctor

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// checkTraffic tries what redirects traffic between a container's interface and its guest's TAP, in a network namespace that is
// gone afterwards: whether a kernel has it is seen only so, for it may be built in, a module, or neither.
func checkTraffic(_ context.Context, _ *host) Result {
	const module = "load its modules (modprobe -a sch_ingress cls_u32 act_mirred), or take a kernel with CONFIG_NET_SCH_INGRESS, " +
		"CONFIG_NET_CLS_U32 and CONFIG_NET_ACT_MIRRED"
	type answer struct {
		missing []string
		err     error
	}
	done := make(chan answer, 1)
	go func() {
		// Never unlocked: the thread ends with this goroutine, and the namespace with the thread.
		runtime.LockOSThread()
		missing, err := tryTraffic()
		done <- answer{missing, err}
	}()
	a := <-done
	if a.err != nil {
		return Result{Status: Missing, Detail: "cannot be tried: " + a.err.Error(), Remedy: "run as root; networks of guests need it"}
	}
	var needed, extra []string
	for _, name := range a.missing {
		if name == "gact" || name == "matchall" {
			extra = append(extra, name)
		} else {
			needed = append(needed, name)
		}
	}
	if len(needed) > 0 {
		return Result{Status: Missing, Detail: "the kernel lacks " + strings.Join(needed, ", ") + ", which networks of guests need",
			Remedy: module}
	}
	r := Result{Status: Found, Detail: "ingress, u32, mirred"}
	if len(extra) > 0 {
		r.Detail += "; without " + strings.Join(extra, ", ") + ", which can be done without"
	} else {
		r.Detail += ", gact, matchall"
	}
	return r
}

// Constants of linux/rtnetlink.h, pkt_sched.h, pkt_cls.h and tc_act/*.h.
const (
	loopback      = 1 // the first interface of a network namespace
	ingressParent = 0xFFFFFFF1
	ingressHandle = 0xFFFF0000

	tcaKind, tcaOptions     = 1, 2
	tcaActTab               = 1
	actKind, actOptions     = 1, 2
	actParms                = 2
	u32Sel, u32ClassID      = 5, 1
	matchallClassID         = 1
	sizeGact, sizeMirred    = 20, 28
	actionShot              = 2
	actionStolen            = 4
	egressRedirect          = 1
	etherAll, etherPriority = 3, 1
)

// tryTraffic returns what the kernel does not know of what it is asked in a network namespace of its own.
func tryTraffic() (missing []string, err error) {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return nil, fmt.Errorf("make a network namespace: %w", err)
	}
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open a netlink socket: %w", err)
	}
	defer unix.Close(fd)
	// The kernel answers within the call; this is for one that does not.
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 5}); err != nil {
		return nil, err
	}
	sel := make([]byte, 32) // struct tc_u32_sel with a key that fits everything
	sel[2] = 1
	mirred := make([]byte, sizeMirred)
	put(mirred[8:], actionStolen)
	put(mirred[20:], egressRedirect)
	put(mirred[24:], loopback)
	gact := make([]byte, sizeGact)
	put(gact[8:], actionShot)
	for _, try := range []struct {
		name    string
		kind    uint16
		message []byte
	}{
		{"ingress", unix.RTM_NEWQDISC, join(traffic(ingressHandle, ingressParent, 0), attr(tcaKind, []byte("ingress\x00")))},
		{"u32", unix.RTM_NEWTFILTER, filter("u32", join(attr(u32ClassID, number(1)), attr(u32Sel, sel)))},
		{"matchall", unix.RTM_NEWTFILTER, filter("matchall", attr(matchallClassID, number(1)))},
		{"mirred", unix.RTM_NEWACTION, action("mirred", mirred)},
		{"gact", unix.RTM_NEWACTION, action("gact", gact)},
	} {
		switch err := ask(fd, try.kind, try.message); {
		case errors.Is(err, unix.ENOENT), errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EINVAL):
			missing = append(missing, try.name)
		case err != nil:
			return nil, fmt.Errorf("%s: %w", try.name, err)
		}
	}
	return missing, nil
}

func put(b []byte, v uint32) { binary.NativeEndian.PutUint32(b, v) }

func number(v uint32) []byte { return binary.NativeEndian.AppendUint32(nil, v) }

func join(parts ...[]byte) []byte {
	var all []byte
	for _, p := range parts {
		all = append(all, p...)
	}
	return all
}

// attr is a struct rtattr with its value, padded.
func attr(kind uint16, value []byte) []byte {
	b := binary.NativeEndian.AppendUint16(nil, uint16(unix.SizeofRtAttr+len(value)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = append(b, value...)
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

// traffic is a struct tcmsg for the loopback interface.
func traffic(handle, parent, info uint32) []byte {
	return join(make([]byte, 4), number(loopback), number(handle), number(parent), number(info))
}

// filter asks for a filter of this kind for all protocols, of which each has a priority of its own.
func filter(kind string, options []byte) []byte {
	priority := uint32(etherPriority + len(kind))
	network := uint32(etherAll) << 8 // in network byte order on a little-endian processor
	return join(traffic(0, ingressHandle, priority<<16|network), attr(tcaKind, []byte(kind+"\x00")), attr(tcaOptions, options))
}

// action is a struct tcamsg with one action.
func action(kind string, parms []byte) []byte {
	one := join(attr(actKind, []byte(kind+"\x00")), attr(actOptions, attr(actParms, parms)))
	return join(make([]byte, 4), attr(tcaActTab, attr(1, one)))
}

// ask sends one request and returns the kernel's answer.
func ask(fd int, kind uint16, payload []byte) error {
	h := unix.NlMsghdr{Len: uint32(unix.SizeofNlMsghdr + len(payload)), Type: kind,
		Flags: unix.NLM_F_REQUEST | unix.NLM_F_ACK | unix.NLM_F_CREATE | unix.NLM_F_EXCL, Seq: 1}
	b := number(h.Len)
	b = binary.NativeEndian.AppendUint16(b, h.Type)
	b = binary.NativeEndian.AppendUint16(b, h.Flags)
	b = join(b, number(h.Seq), number(h.Pid), payload)
	if err := unix.Sendto(fd, b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	answer := make([]byte, 8<<10)
	for {
		n, _, err := unix.Recvfrom(fd, answer, 0)
		if err != nil {
			return err
		}
		if n < unix.SizeofNlMsghdr+4 {
			return fmt.Errorf("a short answer of %d bytes", n)
		}
		// Notices may come before the acknowledgement.
		if binary.NativeEndian.Uint16(answer[4:]) != unix.NLMSG_ERROR {
			continue
		}
		if errno := int32(binary.NativeEndian.Uint32(answer[unix.SizeofNlMsghdr:])); errno != 0 {
			return unix.Errno(-errno)
		}
		return nil
	}
}

package network

import (
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Feature is something of the host's kernel that a container's network takes.
type Feature struct {
	// Name is what it is called where it is documented.
	Name string
	// Options and Modules of the kernel have it, separated by spaces.
	Options, Modules string
	// Without says what is not so without it; it is empty where there is no network then.
	Without string
	// Err is what the kernel answered; nil where it has the feature.
	Err error
}

// Probe tries all features as a binding uses them, in a network namespace that is gone when it returns: whether a kernel has one is seen
// only so, for it may be built in, a module, or neither. The error is of the namespace, and nothing was tried then.
func Probe() ([]Feature, error) {
	var features []Feature
	err := onOwnThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("make a network namespace: %w", err)
		}
		// Any interface does.
		lo, err := loopbackUp()
		if err != nil {
			return err
		}
		features = probe(lo)
		return nil
	})
	return features, err
}

func probe(l netlink.Link) []Feature {
	redirection := netlink.QdiscAdd(ingress(l))
	if redirection == nil {
		redirection = addFilter(filter(l, redirectAll, unix.ETH_P_ALL, nil, mirred(l, netlink.TCA_EGRESS_REDIR, netlink.TC_ACT_STOLEN)))
	}
	loopback, toGuest := listenLoopback()
	if toGuest == nil {
		toGuest = loopback.close()
	}
	return []Feature{
		{Name: "redirection by ingress, u32 and mirred", Options: "NET_SCH_INGRESS NET_CLS_U32 NET_CLS_ACT NET_ACT_MIRRED",
			Modules: "sch_ingress cls_u32 act_mirred", Err: redirection},
		{Name: "nftables at an interface's ingress", Options: "NF_TABLES NF_TABLES_NETDEV NETFILTER_INGRESS", Modules: "nf_tables",
			Without: "guests can send from others' addresses", Err: (&Binding{}).guard(l)},
		{Name: "nftables' redirection to a port", Options: "NF_TABLES NFT_NAT NFT_REDIR", Modules: "nf_tables nft_chain_nat nft_redir",
			Without: "a connection to 127.0.0.1 of a container's network namespace, as a port-forward makes one, does not reach the guest",
			Err:     toGuest},
	}
}

package vmm

import "strings"

// bootedCases need a guest, so their recordings come from a machine with KVM.
func bootedCases() []Case {
	nic := put("/network-interfaces/eth0", `{"iface_id":"eth0","host_dev_name":"vmmgold0","guest_mac":"06:00:00:00:00:01"}`)
	repath := func(file string) Step {
		return patch("/drives/a", `{"drive_id":"a","path_on_host":"{{dir}}/`+file+`"}`)
	}
	return []Case{
		{Name: "states of a guest", Boots: true, Steps: []Step{
			bootSource(), start(), get("/"), get("/version"), start(), patch("/vm", `{"state":"Paused"}`), get("/"), patch("/vm", `{"state":"Paused"}`), get("/"),
			get("/vm/config"), get("/machine-config"), patch("/vm", `{"state":"Resumed"}`), get("/"), patch("/vm", `{"state":"Resumed"}`), get("/"), patch("/vm", `{"state":"Foo"}`),
			put("/actions", `{"action_type":"FlushMetrics"}`), put("/actions", `{"action_type":"Foo"}`), patch("/vm", ``),
		}},
		{Name: "keys for a guest without a keyboard driver", Boots: true, Steps: []Step{bootSource(), start(), put("/actions", `{"action_type":"SendCtrlAltDel"}`)}},
		{Name: "requests that come too late", Boots: true, Steps: []Step{
			bootSource(), drive("a", plain), start(), bootSource(), put("/boot-source", `{"kernel_image_path":"{{dir}}/none"}`), put("/machine-config", `{"vcpu_count":2,"mem_size_mib":256}`),
			patch("/machine-config", `{"vcpu_count":2}`), put("/vsock", `{"guest_cid":3,"uds_path":"{{dir}}/v.sock"}`), put("/entropy", `{}`), put("/serial", `{}`),
			put("/logger", `{}`), put("/metrics", `{"metrics_path":"{{dir}}/m"}`), drive("b", plain), drive("a", plain), nic, put("/cpu-config", `{}`),
			put("/balloon", `{"amount_mib":1,"deflate_on_oom":false}`), put("/mmds/config", `{"network_interfaces":["eth0"]}`),
			put("/snapshot/load", `{"snapshot_path":"{{dir}}/s","mem_backend":{"backend_path":"{{dir}}/mem","backend_type":"File"}}`),
			put("/hotplug/memory", `{"total_size_mib":1024}`), put("/pmem/p", `{"id":"p","path_on_host":"{{dir}}/disk2"}`), put("/boot-source", `{}`), get("/vm/config"),
		}},
		{Name: "another file behind a drive", Boots: true, Steps: []Step{
			bootSource(), drive("a", plain), drive("b", plain+`,"is_read_only":true`), start(), repath("disk2"), get("/vm/config"), repath("disk3"), repath("disk"),
			repath("none"), repath("folder"), repath(""), get("/vm/config"), patch("/drives/b", `{"drive_id":"b","path_on_host":"{{dir}}/disk2"}`), get("/vm/config"),
			patch("/drives/c", `{"drive_id":"c","path_on_host":"{{dir}}/disk2"}`), patch("/drives/a", `{"drive_id":"a"}`), patch("/drives/c", `{"drive_id":"c"}`),
			patch("/drives/a", `{"drive_id":"b","path_on_host":"{{dir}}/disk2"}`), patch("/drives/a", `{"drive_id":"a","rate_limiter":{}}`), patch("/drives/a", `{"drive_id":"a","foo":1}`),
			patch("/drives/a-b", `{}`), patch("/drives/a", `{"drive_id":"a","rate_limiter":null}`), repath("text"),
		}},
		{Name: "another file behind a drive of a paused guest", Boots: true, Steps: []Step{
			bootSource(), drive("a", plain), start(), patch("/vm", `{"state":"Paused"}`), repath("disk2"), patch("/vm", `{"state":"Resumed"}`), get("/vm/config"),
		}},
		{Name: "network interface of a guest", Boots: true, Steps: []Step{
			bootSource(), nic, start(), patch("/network-interfaces/eth0", `{"iface_id":"eth0"}`), patch("/network-interfaces/eth1", `{"iface_id":"eth1"}`),
			patch("/network-interfaces/eth0", `{"iface_id":"eth0","rx_rate_limiter":{}}`), patch("/network-interfaces/eth0", `{"iface_id":"eth1"}`), patch("/network-interfaces/eth0", `{"foo":"eth1"}`), get("/vm/config"),
		}},
		{Name: "guest with every device", Boots: true, Steps: []Step{
			put("/machine-config", `{"vcpu_count":2,"mem_size_mib":192,"smt":true}`),
			put("/boot-source", `{"kernel_image_path":"{{dir}}/vmlinux","initrd_path":"{{dir}}/initrd"}`), drive("r", `"path_on_host":"{{dir}}/disk","is_root_device":true`), drive("b", `"path_on_host":"{{dir}}/disk2","is_root_device":false`),
			nic, put("/vsock", `{"guest_cid":3,"uds_path":"{{dir}}/v.sock"}`), put("/entropy", `{}`), put("/serial", `{"serial_out_path":"{{dir}}/console"}`), start(), get("/"), get("/vm/config"),
		}},
		{Name: "devices that a guest does not have", Boots: true, Steps: []Step{
			bootSource(), start(), get("/balloon"), get("/balloon/statistics"), patch("/balloon", `{"amount_mib":1}`), patch("/balloon/statistics", `{"stats_polling_interval_s":1}`),
			get("/balloon/hinting/status"), patch("/balloon/hinting/start", ``), patch("/balloon/hinting/stop", ``), get("/hotplug/memory"), patch("/hotplug/memory", `{"requested_size_mib":1024}`),
			patch("/pmem/a", `{"id":"a"}`), patch("/pmem/a", `{"id":"a","rate_limiter":{}}`), get("/mmds"), put("/mmds", `{}`), patch("/mmds", `{}`), del("/drives/a"), del("/network-interfaces/a"), del("/pmem/a"),
		}},
		{Name: "kernels that do not boot", Boots: true, Steps: []Step{
			put("/boot-source", `{"kernel_image_path":"{{dir}}/text"}`), start(), get("/"), put("/boot-source", `{"kernel_image_path":"{{dir}}/folder"}`), start(), get("/"),
			put("/boot-source", `{"kernel_image_path":"{{dir}}/disk"}`), start(), bootSource(), start(), get("/"),
		}},
		{Name: "command line without room for what the VMM adds", Boots: true, Steps: []Step{
			put("/boot-source", `{"kernel_image_path":"{{dir}}/vmlinux","boot_args":"`+strings.Repeat("a", 2047)+`"}`), start(),
			put("/boot-source", `{"kernel_image_path":"{{dir}}/vmlinux","boot_args":"`+strings.Repeat("a", 2037)+`"}`), drive("r", `"path_on_host":"{{dir}}/disk","is_root_device":true`), start(), get("/"),
		}},
		{Name: "console that cannot be opened", Boots: true, Steps: []Step{
			bootSource(), put("/serial", `{"serial_out_path":"{{dir}}/no/such/folder"}`), start(), get("/"), put("/serial", `{}`), start(), get("/"),
		}},
		{Name: "snapshot of a guest", Boots: true, Steps: []Step{
			bootSource(), start(), put("/snapshot/create", `{"snapshot_path":"{{dir}}/s","mem_file_path":"{{dir}}/mem"}`), patch("/vm", `{"state":"Paused"}`),
			put("/snapshot/create", `{"snapshot_path":"{{dir}}/s","mem_file_path":"{{dir}}/mem"}`),
		}},
	}
}

package vmm

import "strings"

func get(path string) Step         { return Step{Method: "GET", Path: path} }
func put(path, body string) Step   { return Step{Method: "PUT", Path: path, Body: body} }
func patch(path, body string) Step { return Step{Method: "PATCH", Path: path, Body: body} }
func del(path string) Step         { return Step{Method: "DELETE", Path: path} }

func start() Step { return put("/actions", `{"action_type":"InstanceStart"}`) }

func bootSource() Step {
	return put("/boot-source", `{"kernel_image_path":"{{dir}}/vmlinux","boot_args":"console=ttyS0 reboot=k"}`)
}

func drive(id, fields string) Step {
	return put("/drives/"+id, `{"drive_id":"`+id+`",`+fields+`}`)
}

// Cases is the table.
func Cases() []Case {
	var all []Case
	for _, part := range [][]Case{
		generalCases(), httpCases(), machineCases(), bootSourceCases(), driveCases(), networkCases(), deviceCases(),
		refusedCases(), preBootCases(), bootedCases(),
	} {
		all = append(all, part...)
	}
	return all
}

func generalCases() []Case {
	return []Case{
		{Name: "instance and version", Steps: []Step{get("/"), get("/version"), get("/version/"), get("//version"), get("/vm/config")}},
		{Name: "unknown paths and methods", Steps: []Step{
			get("/foo"), get("/foo/bar"), put("/foo", "{}"), patch("/foo", "{}"), del("/foo"), get("/actions"), get("/drives"),
			get("/drives/a"), get("/vm"), get("/vm/foo"), get("/vm/config/foo"), put("/vm", "{}"), put("/version", "{}"), patch("/version", "{}"),
			put("/", "{}"), del("/"), get("/logger"), patch("/boot-source", "{}"), patch("/vsock", "{}"), get("/snapshot"),
			get("/version?a=b"), get("/hotplug"), put("/hotplug", "{}"), put("/hotplug/foo", "{}"), del("/vsock"),
		}},
		{Name: "bodies missing and unwanted", Steps: []Step{
			{Method: "GET", Path: "/", Body: "{}"}, {Method: "GET", Path: "/foo", Body: "{}"}, put("/machine-config", ""), put("/foo", ""),
			patch("/machine-config", ""), patch("/foo", ""), patch("/vm", ""), {Method: "DELETE", Path: "/drives/a", Body: "{}"},
			patch("/machine-config", "{}"), patch("/machine-config", `{"vcpu_count":null}`),
		}},
		{Name: "actions", Steps: []Step{
			put("/actions", "{}"), put("/actions", `{"action_type":"Foo"}`), put("/actions", `{"action_type":"FlushMetrics"}`),
			put("/actions", `{"action_type":"SendCtrlAltDel"}`), start(), put("/actions", `{"action_type":1}`),
			put("/actions", `{"action_type":"InstanceStart","payload":1}`), put("/actions", `{"action_type":null}`),
			put("/actions", `["InstanceStart"]`), put("/actions", `{"action_type":{"InstanceStart":null}}`), put("/actions", `{"action_type":{"InstanceStart":1}}`), put("/actions", `{"action_type":{"Foo":null}}`),
			put("/actions", `{"action_type":{}}`), put("/actions", `{"action_type":{"InstanceStart":null,"a":1}}`), put("/actions", `{"action_type":{1:null}}`), put("/actions", `{"action_type":{"InstanceStart":null`),
			put("/actions/foo", `{"action_type":"Foo"}`),
		}},
		{Name: "malformed JSON", Steps: malformed()},
		{Name: "logger", Steps: []Step{
			put("/logger", `{}`), put("/logger", `{"log_path":"{{dir}}/log2","level":"Debug","show_level":true,"show_log_origin":true}`),
			put("/logger", `{"level":"foo"}`), put("/logger", `{"level":"WARNING"}`), put("/logger", `{"level":3}`), put("/logger", `{"foo":1}`),
			put("/logger", `{"log_path":"{{dir}}/no/such/folder"}`), put("/logger", `{"log_path":"{{dir}}/folder"}`), put("/logger", `{"log_path":1}`),
			put("/logger", `{"show_level":"yes"}`), put("/logger", `{"module":"api_server"}`),
		}},
		{Name: "metrics", Steps: []Step{
			put("/metrics", `{}`), put("/metrics", `{"metrics_path":"{{dir}}/no/such/folder"}`), put("/metrics", `{"metrics_path":"{{dir}}/m","foo":1}`),
			put("/metrics", `{"metrics_path":"{{dir}}/m2"}`), put("/metrics", `{"metrics_path":false}`),
		}},
	}
}

// malformed sends faulty JSON in place of a machine's configuration.
func malformed() []Step {
	var steps []Step
	for _, body := range []string{
		" ", "{", "}", "[", "[]", "[1]", "[1,128]", "[1,128,false,null,false,\"None\"]", "[1,128,false,null,false,\"None\",1]", "1", "-1", "-", "01", "1.5",
		"1e3", "1e400", "12345678901234567890123", "\"text\"", "\"", "\"\\x\"", "\"a\tb\"", "\"\\ud800\"", "\"\\ud83d\\ude00\"", "null", "nul", "true", "tru",
		"false", "{,}", "{1:2}", "{\"vcpu_count\"}", "{\"vcpu_count\":}", "{\"vcpu_count\":1,}", "{\"vcpu_count\":1 \"mem_size_mib\":1}",
		"{\"vcpu_count\":1,\"mem_size_mib\":128} x", "{\"vcpu_count\":1,\"mem_size_mib\":128}{}", "{\"vcpu_count\":1,\"vcpu_count\":2}",
		"{\"vcpu_count\":1", "{\"vcpu_count\":1,", "{\"vcpu_count\":", "{\"vcpu_count\"", "{\"vcpu", "\n{\n\"foo\": 1 }", "{\"vcpu_count\": [1]}", "{\"vcpu_count\": {}}",
		"{\"vcpu_count\": \"1\"}", "{\"vcpu_count\": true}", "{\"vcpu_count\": 256}", "{\"vcpu_count\": -1}", "{\"vcpu_count\": 1.0}", "{\"vcpu_count\": 1e1}", "{\"vcpu_count\": -0}",
		"{\"vcpu_count\": 1.5e-9}", "{\"vcpu_count\": 123456789012345678901234567890}", "{\"vcpu_count\": \"a\\nb\\\"c\\u0007\\u00e9\"}", "{\"vcpu_count\": 'a'}", "xyz",
		"{\"a\\u0041\":1}", "{\"\":1}", strings.Repeat("[", 200), "{\"smt\":" + strings.Repeat("[", 200), "{\"vcpu_count\":1,\"mem_size_mib\":128 ,\"smt\":null}",
		"{\"vcpu_count\":1,\"mem_size_mib\":128,\"huge_pages\":null}", "\xff", "{\"vcpu_count\":\"\xff\"}", "{ \"vcpu_count\" : 1 , \"mem_size_mib\" : 128 }",
	} {
		steps = append(steps, put("/machine-config", body))
	}
	return steps
}

func httpCases() []Case {
	body := strings.Repeat(" ", 51200-2) + "{}"
	return []Case{
		{Name: "HTTP methods", Steps: []Step{
			{Method: "POST", Path: "/", Body: "{}"}, {Method: "OPTIONS", Path: "/"}, {Method: "get", Path: "/"},
		}},
		{Name: "greatest body", Steps: []Step{put("/machine-config", body)}},
		{Name: "body too large", Steps: []Step{put("/machine-config", body+" ")}},
		{Name: "absolute URI", Steps: []Step{get("http://localhost/version"), get("http://localhost"), get("http://localhost/foo")}},
		{Name: "HTTP/1.0", Steps: []Step{{Raw: "GET /version HTTP/1.0\r\n\r\n"}}},
		{Name: "empty body by length", Steps: []Step{{Raw: "PUT /machine-config HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"}}},
	}
}

func machineCases() []Case {
	return []Case{
		{Name: "machine-config", Steps: []Step{
			get("/machine-config"), put("/machine-config", `{"vcpu_count":2,"mem_size_mib":256}`), get("/machine-config"),
			put("/machine-config", `{"vcpu_count":2}`), put("/machine-config", `{"mem_size_mib":2}`), put("/machine-config", `{}`),
			put("/machine-config", `{"vcpu_count":0,"mem_size_mib":256}`), put("/machine-config", `{"vcpu_count":33,"mem_size_mib":256}`),
			put("/machine-config", `{"vcpu_count":32,"mem_size_mib":256,"smt":true}`), put("/machine-config", `{"vcpu_count":3,"mem_size_mib":256,"smt":true}`),
			put("/machine-config", `{"vcpu_count":1,"mem_size_mib":0}`), put("/machine-config", `{"vcpu_count":1,"mem_size_mib":256,"foo":1}`),
			put("/machine-config", `{"vcpu_count":1,"mem_size_mib":256,"cpu_template":"foo"}`), put("/machine-config", `{"vcpu_count":1,"mem_size_mib":256,"cpu_template":"None"}`),
			put("/machine-config", `{"vcpu_count":1,"mem_size_mib":256,"cpu_template":null}`), put("/machine-config", `{"vcpu_count":1,"mem_size_mib":256,"huge_pages":"1G"}`),
			put("/machine-config", `{"vcpu_count":1,"mem_size_mib":255,"huge_pages":"2M"}`), get("/machine-config"),
		}},
		{Name: "machine-config patched", Steps: []Step{
			patch("/machine-config", `{"vcpu_count":4}`), get("/machine-config"), patch("/machine-config", `{"mem_size_mib":512,"smt":true}`), get("/machine-config"),
			patch("/machine-config", `{"vcpu_count":3}`), patch("/machine-config", `{"foo":3}`), patch("/machine-config", `{"vcpu_count":"3"}`),
			patch("/machine-config", `{"cpu_template":"None"}`), patch("/machine-config", `{"mem_size_mib":0}`), get("/machine-config"),
		}},
		{Name: "machine-config that emulation lacks", Steps: []Step{
			patch("/machine-config", `{"cpu_template":"T2"}`), patch("/machine-config", `{"huge_pages":"2M"}`), patch("/machine-config", `{"track_dirty_pages":true}`),
			put("/cpu-config", `{}`),
		}},
	}
}

func bootSourceCases() []Case {
	return []Case{
		{Name: "boot-source", Steps: []Step{
			bootSource(), put("/boot-source", `{"kernel_image_path":"{{dir}}/none"}`), put("/boot-source", `{}`), put("/boot-source", `{"foo":1}`),
			put("/boot-source", `{"kernel_image_path":"{{dir}}/vmlinux","initrd_path":"{{dir}}/none"}`), put("/boot-source", `{"kernel_image_path":"{{dir}}/vmlinux","initrd_path":"{{dir}}/initrd"}`),
			put("/boot-source", `{"kernel_image_path":"{{dir}}/vmlinux","boot_args":"`+strings.Repeat("a", 2046)+`"}`),
			put("/boot-source", `{"kernel_image_path":"{{dir}}/vmlinux","boot_args":"`+strings.Repeat("a", 2047)+`"}`),
			put("/boot-source", `{"kernel_image_path":"{{dir}}/vmlinux","boot_args":"`+strings.Repeat("a", 2048)+`"}`),
			put("/boot-source", `{"kernel_image_path":"{{dir}}/vmlinux","boot_args":"`+strings.Repeat("a", 4096)+`"}`),
			put("/boot-source", `{"kernel_image_path":"{{dir}}/vmlinux","boot_args":"é"}`), put("/boot-source", `{"kernel_image_path":"{{dir}}/vmlinux","boot_args":"a\u0001"}`),
			put("/boot-source", `{"kernel_image_path":"{{dir}}/vmlinux","boot_args":"a\nb"}`), put("/boot-source", `{"kernel_image_path":"{{dir}}/vmlinux","boot_args":"a\tb"}`),
			put("/boot-source", `{"kernel_image_path":"{{dir}}/vmlinux","boot_args":"a\u007f"}`), put("/boot-source", `{"kernel_image_path":"{{dir}}/vmlinux","boot_args":""}`),
			put("/boot-source", `{"kernel_image_path":"{{dir}}/folder"}`), put("/boot-source", `{"kernel_image_path":""}`), put("/boot-source", `{"kernel_image_path":null}`),
			put("/boot-source", `{"kernel_image_path":"{{dir}}/vmlinux","boot_args":null,"initrd_path":null}`), get("/vm/config"),
			put("/boot-source", `{"kernel_image_path":"{{dir}}/vmlinux/x"}`),
		}},
	}
}

const plain = `"path_on_host":"{{dir}}/disk","is_root_device":false`

func driveCases() []Case {
	return []Case{
		{Name: "drives", Steps: []Step{
			drive("a", plain), drive("b", plain+`,"is_read_only":true,"cache_type":"Writeback","io_engine":"Sync"`),
			drive("r", `"path_on_host":"{{dir}}/disk2","is_root_device":true,"partuuid":"0eaa91a0-01"`), get("/vm/config"),
			drive("a", `"path_on_host":"{{dir}}/disk2","is_root_device":false,"is_read_only":true`), get("/vm/config"),
			drive("b", `"path_on_host":"{{dir}}/disk2","is_root_device":true`), drive("r", `"path_on_host":"{{dir}}/disk","is_root_device":false`),
			drive("b", `"path_on_host":"{{dir}}/disk2","is_root_device":true`), get("/vm/config"),
		}},
		{Name: "two root drives", Steps: []Step{
			drive("r1", `"path_on_host":"{{dir}}/disk","is_root_device":true`), drive("r2", `"path_on_host":"{{dir}}/disk2","is_root_device":true`),
			drive("r1", `"path_on_host":"{{dir}}/disk2","is_root_device":true`), get("/vm/config"),
		}},
		{Name: "faulty drives", Steps: []Step{
			put("/drives", `{}`), put("/drives/", `{}`), put("/drives//a", `{}`), put("/drives/a", `{}`), put("/drives/a-b", `{}`), put("/drives/a.b", `{}`), put("/drives/a_b", `{"drive_id":"a_b"}`), put("/drives/é", `{"drive_id":"é"}`),
			put("/drives/a", `{"drive_id":"b",`+plain+`}`), put("/drives/a", `{"drive_id":"a"}`), put("/drives/a", `{"drive_id":"a","is_root_device":false}`),
			put("/drives/a/b", `{"drive_id":"a",`+plain+`}`), drive("a", plain+`,"foo":1`), drive("a", plain+`,"cache_type":"foo"`), drive("a", plain+`,"io_engine":"foo"`),
			drive("a", plain+`,"is_read_only":"no"`), drive("a", `"path_on_host":"{{dir}}/none","is_root_device":false`), drive("a", `"path_on_host":"{{dir}}/folder","is_root_device":false`),
			drive("a", `"path_on_host":"","is_root_device":false`), drive("a", plain+`,"socket":"{{dir}}/s"`), drive("a", `"is_root_device":"x"`),
			drive("a", plain+`,"rate_limiter":{"bandwidth":{"size":1}}`), drive("a", plain+`,"rate_limiter":{"foo":1}`), drive("a", plain+`,"rate_limiter":1`),
			drive("a", plain+`,"rate_limiter":{"ops":{"size":1,"refill_time":2,"foo":3}}`), drive("a", `"path_on_host":"{{dir}}/folder","is_root_device":false,"is_read_only":true`),
		}},
		{Name: "drives with limiters that limit nothing", Steps: []Step{
			drive("a", plain+`,"rate_limiter":{}`), drive("b", plain+`,"rate_limiter":{"bandwidth":{"size":0,"refill_time":0},"ops":null}`),
			drive("c", plain+`,"rate_limiter":null,"io_engine":null,"partuuid":null,"socket":null,"is_read_only":null`), get("/vm/config"),
		}},
		{Name: "drives that emulation lacks", Steps: []Step{
			drive("a", plain+`,"rate_limiter":{"bandwidth":{"size":1000,"refill_time":100}}`), drive("b", `"is_root_device":false,"socket":"{{dir}}/none"`),
			drive("c", plain+`,"rate_limiter":{"ops":{"size":1000,"one_time_burst":3,"refill_time":100}}`), get("/vm/config"),
		}},
	}
}

func networkCases() []Case {
	nic := func(id, fields string) Step {
		return put("/network-interfaces/"+id, `{"iface_id":"`+id+`",`+fields+`}`)
	}
	return []Case{
		{Name: "network interfaces", Steps: []Step{
			nic("eth0", `"host_dev_name":"vmmgold0","guest_mac":"AA:fc:00:00:00:01"`), nic("eth1", `"host_dev_name":"vmmgold1","guest_mac":"aa:fc:00:00:00:01"`),
			nic("eth1", `"host_dev_name":"vmmgold1","mtu":1400`), nic("eth2", `"host_dev_name":"vmmgold2"`), get("/vm/config"),
			nic("eth0", `"host_dev_name":"vmmgold0","guest_mac":"AA:fc:00:00:00:02"`), get("/vm/config"), nic("eth3", `"host_dev_name":"vmmgold0"`),
		}},
		{Name: "faulty network interfaces", Steps: []Step{
			put("/network-interfaces", `{}`), put("/network-interfaces/eth0", `{}`), put("/network-interfaces/e-0", `{}`), put("/network-interfaces/eth0", `{"iface_id":"eth1","host_dev_name":"x"}`),
			nic("eth0", `"host_dev_name":"a-name-that-is-too-long"`), nic("eth0", `"host_dev_name":"a/b"`), nic("eth0", `"host_dev_name":"vmmgold0","guest_mac":"foo"`),
			nic("eth0", `"host_dev_name":"vmmgold0","guest_mac":"aa:fc:00:00:00"`), nic("eth0", `"host_dev_name":"vmmgold0","guest_mac":1`), nic("eth0", `"host_dev_name":"vmmgold0","foo":1`),
			nic("eth0", `"host_dev_name":"vmmgold0","mtu":67`), nic("eth0", `"host_dev_name":"vmmgold0","mtu":65536`), nic("eth0", `"host_dev_name":1`), nic("eth0", `"host_dev_name":"lo"`),
			nic("eth0", `"guest_mac":"foo","host_dev_name":"vmmgold0"`), nic("eth0", `"host_dev_name":"vmmgold0","rx_rate_limiter":{"foo":1}`),
		}},
		{Name: "network interfaces that emulation lacks", Steps: []Step{
			nic("eth0", `"host_dev_name":"vmmgold0","rx_rate_limiter":{"ops":{"size":1000,"refill_time":100}}`),
			nic("eth1", `"host_dev_name":"vmmgold1","tx_rate_limiter":{"bandwidth":{"size":1000,"refill_time":100}}`), get("/vm/config"),
		}},
	}
}

func deviceCases() []Case {
	return []Case{
		{Name: "vsock", Steps: []Step{
			put("/vsock", `{"guest_cid":3,"uds_path":"{{dir}}/v.sock"}`), get("/vm/config"), put("/vsock", `{"guest_cid":4,"uds_path":"{{dir}}/v.sock"}`),
			put("/vsock", `{"guest_cid":5,"uds_path":"{{dir}}/w.sock"}`), put("/vsock", `{"vsock_id":"v","guest_cid":5,"uds_path":"{{dir}}/w.sock"}`), get("/vm/config"),
		}},
		{Name: "faulty vsock", Steps: []Step{
			put("/vsock", `{}`), put("/vsock", `{"guest_cid":3}`), put("/vsock", `{"uds_path":"a"}`), put("/vsock", `{"guest_cid":3,"uds_path":"{{dir}}/v.sock","foo":1}`),
			put("/vsock", `{"guest_cid":4294967296,"uds_path":"{{dir}}/v.sock"}`), put("/vsock", `{"guest_cid":-1,"uds_path":"{{dir}}/v.sock"}`), put("/vsock", `{"guest_cid":"3","uds_path":"{{dir}}/v.sock"}`),
			put("/vsock", `{"guest_cid":3,"uds_path":"{{dir}}/disk"}`), put("/vsock", `{"guest_cid":3,"uds_path":"{{dir}}/no/such/folder"}`),
			put("/vsock", `{"guest_cid":3,"uds_path":"{{dir}}/`+strings.Repeat("a", 108)+`"}`), put("/vsock", `{"guest_cid":3,"uds_path":1}`), get("/vm/config"),
		}},
		{Name: "vsock with a reserved CID", Steps: []Step{
			put("/vsock", `{"guest_cid":0,"uds_path":"{{dir}}/v0.sock"}`), put("/vsock", `{"guest_cid":2,"uds_path":"{{dir}}/v2.sock"}`),
		}},
		{Name: "entropy", Steps: []Step{
			put("/entropy", `{}`), get("/vm/config"), put("/entropy", `{"rate_limiter":null}`), put("/entropy", `{"rate_limiter":{}}`), put("/entropy", `{"foo":1}`), put("/entropy", `{"rate_limiter":1}`),
		}},
		{Name: "entropy that emulation lacks", Steps: []Step{put("/entropy", `{"rate_limiter":{"ops":{"size":1000,"refill_time":100}}}`)}},
		{Name: "serial", Steps: []Step{
			put("/serial", `{}`), put("/serial", `{"serial_out_path":"{{dir}}/console"}`), put("/serial", `{"serial_out_path":1}`), put("/serial", `{"foo":1}`),
			put("/serial", `{"serial_out_path":"{{dir}}/no/such/folder"}`),
		}},
		{Name: "serial that emulation lacks", Steps: []Step{put("/serial", `{"rate_limiter":{"size":1000,"refill_time":100}}`)}},
	}
}

func refusedCases() []Case {
	return []Case{
		{Name: "balloon", Steps: []Step{
			get("/balloon"), get("/balloon/statistics"), get("/balloon/foo"), get("/balloon/hinting"), get("/balloon/hinting/status"), get("/balloon/hinting/foo"),
			patch("/balloon", `{"amount_mib":1}`), patch("/balloon", `{}`), patch("/balloon", ``), patch("/balloon/statistics", `{"stats_polling_interval_s":1}`),
			patch("/balloon/statistics", `{"stats_polling_interval_s":"1"}`), patch("/balloon/hinting/start", ``), patch("/balloon/hinting/stop", ``), patch("/balloon/hinting/foo", ``),
			put("/balloon", `{"amount_mib":1`), put("/balloon", `{"foo":1}`), put("/balloon", `{}`),
			put("/balloon", `{"amount_mib":1,"deflate_on_oom":false}`), patch("/balloon", `{"foo":1}`), patch("/balloon/hinting/start", `{"foo":1}`), patch("/balloon/hinting/start", `{"acknowledge_on_stop":1}`),
		}},
		{Name: "metadata service", Steps: []Step{
			put("/mmds/foo", `{}`), get("/mmds"), put("/mmds", `{"a":"b"}`), put("/mmds", `{"a"`), patch("/mmds", `{"a":"c"}`), put("/mmds/config", `{"network_interfaces":["eth0"]}`),
			put("/mmds/config", `{"network_interfaces":["eth0"],"version":"V2"}`), put("/mmds/config", `{"version":"V3"}`), put("/mmds/config", `{"foo":1}`), put("/mmds/config", `{"network_interfaces":"eth0"}`),
		}},
		{Name: "snapshots", Steps: []Step{
			put("/snapshot/create", `{"a"`), put("/snapshot/load", `{}`), put("/snapshot/load", `{"snapshot_path":"a","mem_backend":{"backend_type":"foo"}}`),
			put("/snapshot", `{}`), put("/snapshot/foo", `{}`), put("/snapshot/create", `{"snapshot_path":"{{dir}}/s","mem_file_path":"{{dir}}/mem"}`),
			bootSource(), put("/snapshot/load", `{"snapshot_path":"{{dir}}/s","mem_backend":{"backend_path":"{{dir}}/mem","backend_type":"File"}}`),
		}},
		{Name: "hotplug and pmem", Steps: []Step{
			get("/hotplug/memory"), patch("/hotplug/memory", `{"requested_size_mib":1024}`), put("/hotplug/memory", `{"total_size_mib":1024}`),
			put("/pmem", `{}`), put("/pmem/a-b", `{}`), patch("/pmem/a", `{"id":"a"}`), put("/pmem/a", `{"id":"b","path_on_host":"{{dir}}/disk2"}`), put("/pmem/a", `{"foo":1}`), patch("/pmem/a", `{"foo":1}`), put("/hotplug/memory", `{"foo":1}`), patch("/hotplug/memory", `{"foo":1}`),
			put("/pmem/a", `{"id":"a","path_on_host":"{{dir}}/disk2"}`),
			del("/drives/a"), del("/drives"), del("/drives/a-b"), del("/network-interfaces/a"), del("/pmem/a"), del("/pmem"),
		}},
	}
}

func preBootCases() []Case {
	return []Case{
		{Name: "requests that come too early", Steps: []Step{
			patch("/vm", `{"state":"Paused"}`), patch("/vm", `{"state":"Resumed"}`), patch("/vm", `{"state":"Foo"}`), patch("/vm", `{}`), patch("/vm", `{"state":"Paused","foo":1}`),
			patch("/drives/a", `{"drive_id":"a","path_on_host":"{{dir}}/disk"}`), patch("/drives/a", `{"drive_id":"b"}`), patch("/drives/a", `{}`), patch("/drives", `{}`), patch("/drives/a", `{"drive_id":"a","is_read_only":true}`),
			patch("/network-interfaces/a", `{"iface_id":"a"}`), patch("/network-interfaces/a", `{"iface_id":"b"}`), patch("/network-interfaces/a", `{}`), patch("/network-interfaces", `{}`),
			patch("/network-interfaces/a", `{"iface_id":"a","host_dev_name":"x"}`),
		}},
		{Name: "start without a kernel", Steps: []Step{start(), get("/"), drive("a", plain), start(), get("/")}},
	}
}

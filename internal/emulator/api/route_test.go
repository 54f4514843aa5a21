package api

import (
	"errors"
	"net/http"
	"testing"
)

// FuzzParse gives every request that can be made to the router and the decoders behind it; nothing is carried out.
func FuzzParse(f *testing.F) {
	for _, path := range []string{
		"/", "/actions", "/balloon", "/balloon/statistics", "/balloon/hinting/start", "/boot-source", "/cpu-config", "/drives/a", "/entropy",
		"/hotplug/memory", "/logger", "/machine-config", "/metrics", "/mmds", "/mmds/config", "/network-interfaces/eth0", "/pmem/a", "/serial",
		"/snapshot/create", "/snapshot/load", "/version", "/vm", "/vm/config", "/vsock", "//drives//a/", "/drives/é",
	} {
		for _, method := range []string{http.MethodGet, http.MethodPut, http.MethodPatch, http.MethodDelete} {
			f.Add(method, path, []byte(nil))
			f.Add(method, path, []byte(`{"action_type":"InstanceStart"}`))
			f.Add(method, path, []byte(`{"drive_id":"a","path_on_host":"/x","is_root_device":false,"rate_limiter":{"ops":{"size":1,"refill_time":2}}}`))
			f.Add(method, path, []byte(`{"iface_id":"eth0","host_dev_name":"tap0","guest_mac":"aa:fc:00:00:00:01","mtu":1500}`))
			f.Add(method, path, []byte(`{"vcpu_count":1,"mem_size_mib":128,"smt":false,"cpu_template":"T2","huge_pages":"2M"}`))
			f.Add(method, path, []byte(`{"kernel_image_path":"/x","boot_args":null,"guest_cid":3,"uds_path":"/v"}`))
		}
	}
	f.Fuzz(func(t *testing.T, method, path string, body []byte) {
		a, err := parse(method, path, body)
		if err == nil {
			if a.before == nil || a.after == nil {
				t.Fatalf("%s %q %q: an action without steps", method, path, body)
			}
			return
		}
		var refused *Fault
		if !errors.As(err, &refused) || refused.Status != http.StatusBadRequest || refused.Message == "" {
			t.Fatalf("%s %q %q: %#v", method, path, body, err)
		}
	})
}

package doctor

import (
	"context"
	"fmt"
	"strings"

	"github.com/runcvm/runcvm/internal/network"
)

// checkTraffic tries what a container's network takes of the kernel.
func checkTraffic(_ context.Context, _ *host) Result {
	features, err := network.Probe()
	if err != nil {
		return Result{Status: Missing, Detail: "cannot be tried: " + err.Error(), Remedy: "run as root; networks of guests need it"}
	}
	r := Result{Status: Found}
	var have, lack, remedies []string
	for _, f := range features {
		if f.Err == nil {
			have = append(have, f.Name)
			continue
		}
		without := f.Without
		if without == "" {
			r.Status = Missing
			without = "no container has a network"
		} else if r.Status == Found {
			r.Status = Warning
		}
		lack = append(lack, fmt.Sprintf("without %s %s (%v)", f.Name, without, f.Err))
		remedies = append(remedies, fmt.Sprintf("load the modules %s, or take a kernel with the options %s", f.Modules, f.Options))
	}
	if len(lack) == 0 {
		lack = have
	}
	r.Detail, r.Remedy = strings.Join(lack, "; "), strings.Join(remedies, "; ")
	return r
}

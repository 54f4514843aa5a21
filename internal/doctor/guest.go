package doctor

import (
	"context"
	"debug/elf"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/runcvm/runcvm/internal/kernel"
	"github.com/runcvm/runcvm/internal/programs"
)

// checkKernel unpacks and checks the kernel that a start would take: in the cache where there is one, so that the next start
// finds it there, else for the moment only.
func checkKernel(ctx context.Context, h *host) Result {
	const remedy = "apt-get install linux-image-cloud-amd64, or runcvm kernel import FILE and runcvm kernel default NAME, or name a " +
		"kernel by kernel.path (RUNCVM_KERNEL): a vmlinux, a vmlinuz or its package"
	cache := filepath.Join(h.cfg.DataDir, "kernels")
	if _, err := os.Stat(cache); err != nil {
		tmp, err := os.MkdirTemp("", "runcvm-doctor-")
		if err != nil {
			return Result{Status: Missing, Detail: "cannot be unpacked: " + err.Error(), Remedy: "let " + os.TempDir() + " be written to"}
		}
		defer func() { _ = os.RemoveAll(tmp) }()
		cache = tmp
	}
	k, err := kernel.Find(ctx, kernel.Options{Path: h.cfg.Kernel, Roots: kernel.Roots, CacheDir: cache})
	if err != nil {
		return Result{Status: Missing, Detail: err.Error(), Remedy: remedy}
	}
	r := Result{Status: Found, Detail: k.Release}
	switch {
	case k.ModulesDir != "":
		r.Detail += ", modules in " + k.ModulesDir
	case h.cfg.Kernel != "":
		r.Detail += ", " + h.cfg.Kernel + ", without modules"
	default:
		r.Detail += ", without modules"
	}
	if k.ConfigPath == "" {
		r.Status, r.Remedy = Warning, "put its configuration beside it as config-RELEASE"
		r.Detail += "; its configuration was not found, so it was not checked"
	}
	return r
}

func checkAgent(_ context.Context, h *host) Result {
	const remedy = "install runcvm-guest (make install), or set guest.agent (RUNCVM_AGENT)"
	path, err := programs.Agent(h.cfg.Agent)
	if err != nil {
		return Result{Status: Missing, Detail: err.Error(), Remedy: remedy}
	}
	f, err := elf.Open(path)
	if err != nil {
		return Result{Status: Missing, Detail: path + " is no program: " + err.Error(), Remedy: remedy}
	}
	defer func() { _ = f.Close() }() // it was only read
	if slices.ContainsFunc(f.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_INTERP }) {
		return Result{Status: Missing, Detail: path + " is linked dynamically, and the guest has no libraries",
			Remedy: "build it with CGO_ENABLED=0 (make build)"}
	}
	return Result{Status: Found, Detail: path}
}

// checkCrun runs it: it needs its libraries, which go into the guest with it.
func checkCrun(ctx context.Context, h *host) Result {
	const remedy = "apt-get install crun, or set guest.crun (RUNCVM_CRUN)"
	path, err := programs.Find(h.cfg.Crun)
	if err != nil {
		return Result{Status: Missing, Detail: err.Error(), Remedy: remedy}
	}
	// Even for its version it makes the directory of its containers' states, else in /run.
	states, err := os.MkdirTemp("", "runcvm-doctor-")
	if err != nil {
		return Result{Status: Missing, Detail: "cannot be tried: " + err.Error(), Remedy: "let " + os.TempDir() + " be written to"}
	}
	defer func() { _ = os.RemoveAll(states) }()
	text, err := outputWith(ctx, []string{"XDG_RUNTIME_DIR=" + states}, path, "--version")
	if err != nil {
		return Result{Status: Missing, Detail: "does not run: " + err.Error(), Remedy: remedy}
	}
	return Result{Status: Found, Detail: path + ", " + firstLine(text)}
}

func checkMke2fs(ctx context.Context, _ *host) Result {
	return e2fsprogs(ctx, "mke2fs", "-V", "which formats containers' disks")
}

func checkE2fsck(ctx context.Context, _ *host) Result {
	return e2fsprogs(ctx, "e2fsck", "-V", "without which no container that has ended is started again")
}

func checkDebugfs(ctx context.Context, _ *host) Result {
	return e2fsprogs(ctx, "debugfs", "-V", "without which no container that has ended is started again")
}

// e2fsprogs looks for a program where the product looks: Debian has them in directories that are not in everybody's PATH.
func e2fsprogs(ctx context.Context, name, versionFlag, use string) Result {
	path, err := exec.LookPath(name)
	for _, dir := range []string{"/usr/sbin", "/sbin"} {
		if err == nil {
			break
		}
		path, err = exec.LookPath(filepath.Join(dir, name))
	}
	if err != nil {
		return Result{Status: Missing, Detail: name + ", " + use + ", is neither in $PATH nor in /usr/sbin",
			Remedy: "apt-get install e2fsprogs"}
	}
	text, err := output(ctx, path, versionFlag)
	if err != nil {
		return Result{Status: Missing, Detail: "does not run: " + err.Error(), Remedy: "apt-get install --reinstall e2fsprogs"}
	}
	return Result{Status: Found, Detail: path + ", " + strings.TrimPrefix(firstLine(text), name+" ")}
}

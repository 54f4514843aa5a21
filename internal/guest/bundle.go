package guest

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/runcvm/runcvm/internal/guestapi"
)

const (
	// maxEntrypoint bounds the staged command, in bytes: more than the kernel takes for arguments (a quarter of an 8 MiB stack,
	// execve(2)), each byte of which JSON may write as six.
	maxEntrypoint = 16 << 20
	// maxConfig bounds the staged specification, in bytes.
	maxConfig = 16 << 20
	// maxLoggedEntrypoint bounds what the log shows of the command, in bytes.
	maxLoggedEntrypoint = 1024
)

// process is what the agent itself needs to know of the container's process.
type process struct {
	args []string
	env  []string
	cwd  string
	user execUser
	// terminal says that it gets one.
	terminal bool
	// mounts are where something is mounted over the root file system.
	mounts []string
	// sysctls are the kernel parameters that the agent sets, by their paths below /proc/sys: those that are the whole guest's.
	sysctls map[string]string
}

// userLookup finds users and groups in the container's own files.
type userLookup struct {
	user   func(spec string) (execUser, error)
	groups func(names []string) ([]uint32, error)
}

// writeBundle makes crun's bundle from what the host staged on the container's disk. The specification is passed on as it is,
// except for the fields that only the guest can fill in: the command, the user, the root and the cgroup.
func (c *container) writeBundle() (*process, error) {
	stage := filepath.Join(c.diskDir(), guestapi.StageDir)
	args, err := readEntrypoint(filepath.Join(stage, guestapi.EntrypointFile))
	if err != nil {
		return nil, err
	}
	slog.Debug("Running saved entrypoint: " + bounded(args))
	raw, err := readFileBounded(filepath.Join(stage, guestapi.ConfigFile), maxConfig)
	if err != nil {
		return nil, fmt.Errorf("the container's configuration: %w", err)
	}
	rootfs, err := unix.Open(c.rootfs(), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(rootfs)
	if raw, err = placeCopies(raw, c.copiesDir()); err != nil {
		return nil, fmt.Errorf("the container's configuration: %w", err)
	}
	config, p, err := completeConfig(raw, args, c.rootfs(), c.cgroupsPath(),
		userLookup{
			user:   func(spec string) (execUser, error) { return resolveUser(rootfs, spec) },
			groups: func(names []string) ([]uint32, error) { return resolveGroups(rootfs, names) },
		})
	if err != nil {
		return nil, fmt.Errorf("the container's configuration: %w", err)
	}
	return p, os.WriteFile(filepath.Join(c.bundle(), "config.json"), config, 0o600)
}

// readEntrypoint reads the staged command. Without one there is nothing to run: no shell takes its place.
func readEntrypoint(path string) ([]string, error) {
	b, err := readFileBounded(path, maxEntrypoint)
	if err != nil {
		return nil, fmt.Errorf("the container has no command: %w", err)
	}
	var args []string
	if err := json.Unmarshal(b, &args); err != nil {
		return nil, fmt.Errorf("the container's command is not an array of strings: %w", err)
	}
	if len(args) == 0 || args[0] == "" {
		return nil, errors.New("the container's command is empty")
	}
	for i, a := range args {
		if strings.IndexByte(a, 0) >= 0 {
			return nil, fmt.Errorf("argument %d of the container's command holds a NUL byte", i)
		}
	}
	return args, nil
}

// bounded is a command for the log, as JSON.
func bounded(args []string) string {
	var total int
	for i, a := range args {
		if total += len(a); total > maxLoggedEntrypoint {
			args = append(args[:i:i], a[:max(0, len(a)-(total-maxLoggedEntrypoint))], "...")
			break
		}
	}
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(args); err != nil {
		return err.Error()
	}
	return strings.TrimSpace(b.String())
}

// object is a JSON object whose unknown fields stay byte for byte what they were.
type object map[string]json.RawMessage

func (o object) get(key string, v any) error {
	raw, ok := o[key]
	if !ok {
		return nil
	}
	if err := json.Unmarshal(raw, v); err != nil {
		return fmt.Errorf("%s: %w", key, err)
	}
	return nil
}

func (o object) set(key string, v any) error {
	raw, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("%s: %w", key, err)
	}
	o[key] = raw
	return nil
}

// completeConfig sets the fields of the host's specification that only the guest knows.
func completeConfig(raw []byte, args []string, rootfs, cgroupsPath string, lookup userLookup) ([]byte, *process, error) {
	var spec, root, proc, linux object
	var annotations map[string]string
	if err := json.Unmarshal(raw, &spec); err != nil {
		return nil, nil, err
	}
	err := errors.Join(spec.get("root", &root), spec.get("process", &proc), spec.get("linux", &linux),
		spec.get("annotations", &annotations))
	if err != nil {
		return nil, nil, err
	}
	if proc == nil || root == nil || linux == nil {
		return nil, nil, errors.New("process, root or linux is missing")
	}
	if err := addDevices(linux, annotations); err != nil {
		return nil, nil, err
	}
	p := &process{args: args}
	if err := p.read(spec, proc, linux); err != nil {
		return nil, nil, err
	}
	if err := p.resolve(annotations, lookup); err != nil {
		return nil, nil, err
	}
	if annotations[guestapi.InitAnnotation] != "" {
		if err := addInit(spec); err != nil {
			return nil, nil, err
		}
		args = append([]string{guestapi.InitPath, "--"}, args...)
	}
	// The container and its hooks have no use for them.
	maps.DeleteFunc(annotations, func(key, _ string) bool { return strings.HasPrefix(key, guestapi.AnnotationPrefix) })
	err = errors.Join(
		proc.set("args", args), proc.set("env", p.env), proc.set("user", p.user), spec.set("process", proc),
		root.set("path", rootfs), spec.set("root", root),
		linux.set("cgroupsPath", cgroupsPath), spec.set("linux", linux),
	)
	if annotations != nil {
		err = errors.Join(err, spec.set("annotations", annotations))
	}
	if err != nil {
		return nil, nil, err
	}
	out, err := json.Marshal(spec)
	return out, p, err
}

// placeCopies gives the bind mounts of what was copied from the host the places where it lies here.
func placeCopies(raw []byte, dir string) ([]byte, error) {
	var spec object
	var mounts []object
	if err := json.Unmarshal(raw, &spec); err != nil {
		return nil, err
	}
	if err := spec.get("mounts", &mounts); err != nil {
		return nil, err
	}
	for _, m := range mounts {
		var source string
		if err := m.get("source", &source); err != nil {
			return nil, err
		}
		if name, ok := strings.CutPrefix(source, "/"+guestapi.CopiesDir+"/"); ok {
			if err := m.set("source", filepath.Join(dir, filepath.Base(name))); err != nil {
				return nil, err
			}
		}
	}
	if mounts != nil {
		if err := spec.set("mounts", mounts); err != nil {
			return nil, err
		}
	}
	return json.Marshal(spec)
}

// read takes what the agent needs to know out of the specification, and of linux.sysctl what the agent sets itself.
func (p *process) read(spec, proc, linux object) error {
	var mounts []struct{ Destination string }
	if err := spec.get("mounts", &mounts); err != nil {
		return err
	}
	for _, m := range mounts {
		p.mounts = append(p.mounts, m.Destination)
	}
	var sysctls map[string]string
	err := errors.Join(proc.get("env", &p.env), proc.get("cwd", &p.cwd), proc.get("user", &p.user), linux.get("sysctl", &sysctls),
		proc.get("terminal", &p.terminal))
	if err != nil || sysctls == nil {
		return err
	}
	p.sysctls = takeGuestSysctls(sysctls)
	return linux.set("sysctl", sysctls)
}

// resolve finds the process's user and groups in the container's own files.
func (p *process) resolve(annotations map[string]string, lookup userLookup) error {
	if name, ok := annotations[guestapi.UserAnnotation]; ok {
		user, err := lookup.user(name)
		if err != nil {
			return err
		}
		user.Umask = p.user.Umask
		user.addGroups(p.user.AdditionalGids)
		p.user = user
		if !hasEnv(p.env, "HOME") {
			p.env = append(p.env, "HOME="+user.home)
		}
	}
	// As in Docker, the process's own group is one of the further ones too.
	gids := append([]uint32{p.user.GID}, p.user.AdditionalGids...)
	if names := annotations[guestapi.GroupsAnnotation]; names != "" {
		further, err := lookup.groups(strings.Split(names, ","))
		if err != nil {
			return err
		}
		gids = append(gids, further...)
	}
	p.user.AdditionalGids = nil
	p.user.addGroups(gids)
	return nil
}

// addInit puts the agent's own program, which is the container's init under another name, at its place in the container.
func addInit(spec object) error {
	var mounts []json.RawMessage
	if err := spec.get("mounts", &mounts); err != nil {
		return err
	}
	m, err := json.Marshal(map[string]any{
		"destination": guestapi.InitPath, "type": "bind", "source": agentPath, "options": []string{"bind", "ro"},
	})
	if err != nil {
		return err
	}
	return spec.set("mounts", append(mounts, m))
}

func hasEnv(env []string, name string) bool {
	for _, e := range env {
		if strings.HasPrefix(e, name+"=") {
			return true
		}
	}
	return false
}

/*
 * The least that a guest can do for one container: load the same modules as the agent, mount, run crun once, reboot. With
 * baseline_execs=N on the kernel's command line crun then runs "true" N times in the container, and each time is measured.
 * No host to talk to, no output to carry. It has no error handling beyond saying what failed: its run then does not count.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static void end(void)
{
	reboot(RB_AUTOBOOT);
	for (;;)
		pause();
}

static void fail(const char *what)
{
	printf("baseline: %s: %s\n", what, strerror(errno));
	fflush(stdout);
	end();
}

static void mnt(const char *src, const char *dir, const char *type, unsigned long flags, const char *opt)
{
	mkdir(dir, 0755);
	if (mount(src, dir, type, flags, opt))
		fail(dir);
}

static void load_modules(void)
{
	char path[512];
	FILE *list = fopen("/etc/runcvm/modules.load", "re");

	if (!list)
		fail("modules.load");
	while (fgets(path, sizeof path, list)) {
		int fd;

		path[strcspn(path, "\n")] = 0;
		fd = open(path, O_RDONLY | O_CLOEXEC);
		if (fd < 0 || (syscall(SYS_finit_module, fd, "", 0) && errno != EEXIST))
			fail(path);
		close(fd);
	}
	fclose(list);
}

#define CRUN "crun", "--root", "/run/crun", "--cgroup-manager=cgroupfs"

static int crun(char **argv)
{
	int status;
	pid_t pid = fork();

	if (pid == 0) {
		execve("/bin/crun", argv, (char *[]){"PATH=/bin", 0});
		_exit(127);
	}
	if (pid < 0 || waitpid(pid, &status, 0) != pid)
		fail("crun");
	return status;
}

/* Runs "true" n times in a container that sleeps, and prints how long each time took. It does not return. */
static void time_execs(int n)
{
	struct timespec a, b;

	if (crun((char *[]){CRUN, "run", "--detach", "--bundle", "/run/b/disk/.runcvm", "baseline", 0}))
		fail("crun run");
	while (n-- > 0) {
		clock_gettime(CLOCK_MONOTONIC, &a);
		if (crun((char *[]){CRUN, "exec", "baseline", "true", 0}))
			fail("crun exec");
		clock_gettime(CLOCK_MONOTONIC, &b);
		printf("baseline: exec %.6f s\n", (b.tv_sec - a.tv_sec) + (b.tv_nsec - a.tv_nsec) / 1e9);
	}
	printf("baseline: exit 0\n");
	fflush(stdout);
	end();
}

int main(void)
{
	const unsigned long strict = MS_NOSUID | MS_NOEXEC | MS_NODEV;
	int status;

	/* crun's pivot_root cannot be given the initramfs itself: a bind mount of it is moved over it. */
	if (mount("/", "/root", "", MS_BIND, "") || chdir("/root") || mount(".", "/", "", MS_MOVE, "") || chroot(".") || chdir("/"))
		fail("root");
	mnt("proc", "/proc", "proc", strict, "");
	mnt("sysfs", "/sys", "sysfs", strict, "");
	mnt("devtmpfs", "/dev", "devtmpfs", MS_NOSUID | MS_NOEXEC, "mode=0755");
	mnt("tmpfs", "/run", "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755");
	mnt("cgroup2", "/sys/fs/cgroup", "cgroup2", strict, "");
	load_modules();
	mkdir("/run/b", 0700);
	/* The disks are named in the order in which the VMM was given them. */
	mnt("/dev/vda", "/run/b/image", "erofs", MS_RDONLY | MS_NOATIME, "");
	mnt("/dev/vdb", "/run/b/disk", "ext4", MS_NOATIME, "noinit_itable,errors=remount-ro");
	if (mkdir("/run/b/disk/upper", 0755) || mkdir("/run/b/disk/work", 0700))
		fail("the overlay's directories");
	mnt("overlay", "/run/b/rootfs", "overlay", 0, "lowerdir=/run/b/image,upperdir=/run/b/disk/upper,workdir=/run/b/disk/work,"
	    "xino=on,redirect_dir=on,metacopy=off,index=off");
	if (getenv("baseline_execs"))
		time_execs(atoi(getenv("baseline_execs")));
	status = crun((char *[]){CRUN, "run", "--bundle", "/run/b/disk/.runcvm", "baseline", 0});
	/* The one line by which the run counts. */
	printf("baseline: exit %d\n", WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
	fflush(stdout);
	end();
}

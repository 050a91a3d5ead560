/*
 * Loaded into crun, and into nothing else, on a machine that crun refuses for one file's content: see `no_controllers`
 * in peer.rs. That file reads as empty; all else is what the C library does.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdarg.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static int opened(int folder, const char *path, int flags, mode_t mode)
{
	if (path && strcmp(path, "/sys/fs/cgroup/unified/cgroup.controllers") == 0)
		path = "/dev/null";
	return syscall(SYS_openat, folder, path, flags, mode);
}

static mode_t mode_of(int flags, va_list rest)
{
	return (flags & O_CREAT) || (flags & O_TMPFILE) == O_TMPFILE ? va_arg(rest, mode_t) : 0;
}

int openat(int folder, const char *path, int flags, ...)
{
	va_list rest;
	mode_t mode;

	va_start(rest, flags);
	mode = mode_of(flags, rest);
	va_end(rest);
	return opened(folder, path, flags, mode);
}

int open(const char *path, int flags, ...)
{
	va_list rest;
	mode_t mode;

	va_start(rest, flags);
	mode = mode_of(flags, rest);
	va_end(rest);
	return opened(AT_FDCWD, path, flags, mode);
}

int __openat_2(int folder, const char *path, int flags)
{
	return opened(folder, path, flags, 0);
}

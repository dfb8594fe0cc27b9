// SPDX-License-Identifier: Apache-2.0
// Preloaded into a program that sweeps /proc/self/task/TID/fail-nth: says each N that it asks for, with the pages that are
// pinned and locked just then. A line is "# fail-nth N VmPin P VmLck L", in kB. The program itself stays as it is.
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

static int fail_nth = -1;

static long field(const char *status, const char *name)
{
	const char *at = strstr(status, name);
	return at ? atol(at + strlen(name)) : -1;
}

static void say(int number)
{
	char status[8192], line[128];
	int fd = syscall(SYS_openat, AT_FDCWD, "/proc/self/status", O_RDONLY);
	ssize_t size = fd < 0 ? 0 : syscall(SYS_read, fd, status, sizeof(status) - 1);
	if (fd >= 0)
		syscall(SYS_close, fd);
	status[size > 0 ? size : 0] = '\0';
	int length = snprintf(line, sizeof(line), "# fail-nth %d VmPin %ld VmLck %ld\n", number,
			      field(status, "\nVmPin:"), field(status, "\nVmLck:"));
	syscall(SYS_write, STDOUT_FILENO, line, length);
}

int open(const char *path, int flags, ...)
{
	va_list more;
	va_start(more, flags);
	mode_t mode = flags & (O_CREAT | __O_TMPFILE) ? va_arg(more, mode_t) : 0;
	va_end(more);
	int fd = syscall(SYS_openat, AT_FDCWD, path, flags, mode);
	size_t length = strlen(path);
	if (fd >= 0 && length > 9 && !strcmp(path + length - 9, "/fail-nth"))
		fail_nth = fd;
	return fd;
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t offset)
{
	char number[16] = "";
	if (fd == fail_nth && size < sizeof(number)) {
		memcpy(number, data, size);
		if (atoi(number) > 0)
			say(atoi(number)); // before it is armed: looking must not fail
	}
	return syscall(SYS_pwrite64, fd, data, size, offset);
}

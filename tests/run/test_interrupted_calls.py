"""Handlers without SA_RESTART: no call of iommufd or VFIO is ever interrupted by a signal that a handler takes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from tests.run.conftest import Runner
from tests.run.test_threads_and_families import compiled

SOURCE = r"""
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <unistd.h>

static volatile long signals;
static int iommufd, device;
static void count(int number) { signals++; }

static void *calls(void *failed)
{
	struct stat status;
	char four[4];

	for (int round = 0; round < 4000; round++)
		if (ioctl(iommufd, 0x3b65, 1) != 1 || pread(device, four, 4, 7ull << 40) != 4 || fstat(device, &status) ||
			stat("/dev/iommu", &status))
			++*(long *)failed;
	return NULL;
}

int main(int argc, char **argv)
{
	struct { unsigned argsz, flags; int iommufd; unsigned id; } bind = { sizeof(bind), 0, 0, 0 };
	struct sigaction action = { .sa_handler = count }; /* no SA_RESTART */
	struct itimerval often = { { 0, 500 }, { 0, 500 } };
	long failed[3] = { 0 };
	pthread_t threads[2];

	iommufd = bind.iommufd = open("/dev/iommu", O_RDWR);
	device = open("/dev/vfio/devices/vfio0", O_RDWR);
	if (ioctl(device, 0x3b76, &bind) || (argc > 1 && mmap(NULL, 4096, PROT_READ, MAP_SHARED, device, 0) == MAP_FAILED))
		return 1;
	sigaction(SIGALRM, &action, NULL);
	setitimer(ITIMER_REAL, &often, NULL);
	for (int i = 0; i < 2; i++)
		pthread_create(&threads[i], NULL, calls, &failed[i]);
	calls(&failed[2]);
	for (int i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);
	if (signals < 50)
		return 2; /* nothing has been tried */
	if (failed[0] + failed[1] + failed[2])
		printf("%ld of 12000 rounds failed, %ld signals\n", failed[0] + failed[1] + failed[2], signals);
	return failed[0] + failed[1] + failed[2] != 0;
}
"""


def test_a_program_that_has_mapped_a_bar_sees_no_eintr(
    run_as_anyone: Runner, open_directory: Path, require: Callable[[str, str], NoReturn]
) -> None:
    """Such a program is traced, so that what the kernel would answer can be put right."""
    done = run_as_anyone(compiled(SOURCE, open_directory, require), "map", options=["--mmio", "trap"])
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)


@pytest.mark.parametrize("mode", ["trap", "rw"])
def test_a_program_sees_no_eintr_where_that_is_asked_for(
    run_as_anyone: Runner, open_directory: Path, require: Callable[[str, str], NoReturn], mode: str
) -> None:
    done = run_as_anyone(compiled(SOURCE, open_directory, require), options=["--mmio", mode, "--uninterrupted"])
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)


def test_who_is_traced_already_is_told_that_signals_may_interrupt_it(run: Runner) -> None:
    source = """
import ctypes, os
if os.fork() == 0:
    ctypes.CDLL(None).ptrace(0, 0, 0, 0)  # PTRACE_TRACEME: the parent is its debugger
    os.close(os.open("/dev/iommu", os.O_RDWR))
    os._exit(0)
print(os.waitstatus_to_exitcode(os.wait()[1]))
"""
    done = run.python(source, options=["--uninterrupted"])
    assert done.stdout == "0\n"
    assert "is traced by process" in done.stderr
    assert "after a signal" in done.stderr

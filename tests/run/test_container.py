"""In a container whose profile forbids pidfd_getfd and kcmp, as common ones do, programs are served all the same."""

from __future__ import annotations

import subprocess

from tests.run.conftest import Runner

CONFINED = """
    import errno, os
    from ioas.run import kernel
    from ioas.run.filter import build
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    kernel.install_filter(build([], [kernel.Nr.PIDFD_GETFD, kernel.Nr.KCMP]), 0)
    os.execvp(sys.argv[1], sys.argv[1:])
"""


def confined(run: Runner, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*run.script(CONFINED), *command], capture_output=True, text=True, check=False, timeout=60)


def test_eventfds_are_made_for_the_program(run: Runner) -> None:
    source = """
        from edu import *
        import select
        machine = Machine()
        eventfd = os.eventfd(3, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        assert not os.get_inheritable(eventfd) and os.eventfd_read(eventfd) == 3
        call(machine.device, 0x3B6E, "=5Ii", 4 | 32, 1, 0, 1, eventfd)
        machine.register(0x60, 1)
        assert select.select([eventfd], [], [], 5)[0]
        copy = os.dup(machine.device)
        call(copy, 0x3B6B, "=6I", 0, 0, 0, 0, 0)
        child = os.fork()
        if child == 0:
            os._exit(call(machine.iommufd, IOAS_ALLOC, "=3I", 0, 0)[2] == 0)
        assert os.waitpid(child, 0)[1] == 0
    """
    done = confined(run, *run.command(*run.script(source)))
    assert (done.stderr, done.returncode) == ("", 0)


def test_the_check_names_what_is_degraded_and_what_it_means(run: Runner) -> None:
    done = confined(run, *run.command(options=["--check"])[:-1])
    assert done.returncode == 0
    assert "pidfd_getfd is not allowed" in done.stdout
    assert "kcmp is not allowed" in done.stdout

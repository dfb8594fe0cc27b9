"""Device files are ordinary descriptors: copied, inherited, sent, polled; released when their last reference goes."""

from __future__ import annotations

from tests.run.conftest import Runner

OPENED = "from edu import *; import resource, select, socket; machine = Machine(); "


def passes(run: Runner, source: str) -> None:
    done = run.python(source)
    assert (done.stderr, done.returncode) == ("", 0)


def test_a_device_file_works_by_ioctl_read_and_write(run_as_anyone: Runner) -> None:
    passes(
        run_as_anyone,
        """
        from edu import *
        machine = Machine()
        machine.register(4, 0x12345678)
        assert machine.register(4) == 0xEDCBA987
        assert os.pread(machine.device, 4, CONFIG) == bytes.fromhex("3412e811")
        parts = [bytearray(2), bytearray(2)]
        assert os.preadv(machine.device, parts, CONFIG) == 4 and parts == [b"\\x34\\x12", b"\\xe8\\x11"]
        assert os.pwritev(machine.device, [b"\\x02", b"\\x04"], CONFIG + 4) == 2
        assert os.pread(machine.device, 2, CONFIG + 4) == b"\\x02\\x04"
        """,
    )


def test_stat_by_path_and_by_descriptor_show_the_same_character_device(run_as_anyone: Runner) -> None:
    passes(
        run_as_anyone,
        """
        from edu import *
        import stat
        for path in ("/dev/iommu", "/dev/vfio/devices/vfio0"):
            fd = os.open(path, os.O_RDWR)
            for status in (os.stat(path), os.lstat(path), os.fstat(fd)):
                assert stat.S_ISCHR(status.st_mode), path
                assert os.path.samestat(status, os.stat(path))
                assert status.st_rdev == os.stat(path).st_rdev != 0
        shown = open("/sys/bus/pci/devices/0000:01:00.0/vfio-dev/vfio0/dev").read()
        assert shown == f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}\\n"
        """,
    )


def test_a_file_is_closed_by_its_last_reference_only(run_as_anyone: Runner) -> None:
    passes(
        run_as_anyone,
        """
        from edu import *
        import socket

        def free():  # a device that is open and bound cannot be bound to another iommufd
            try:
                Machine()
            except OSError as error:
                assert error.errno in (16, 22), error
                return False
            return True

        def references(fd):
            copy = os.dup(fd); os.close(fd); yield copy
            fcntl.fcntl(copy, fcntl.F_GETFD)
            high = fcntl.fcntl(copy, fcntl.F_DUPFD_CLOEXEC, 950); assert high >= 950; os.close(copy); yield high
            low = os.dup2(high, 20); os.close(high); yield low
            ours, theirs = socket.socketpair()
            socket.send_fds(ours, [b"x"], [low]); os.close(low); yield None
            (received,) = socket.recv_fds(theirs, 1, 1)[1]; yield received
            child = os.fork()
            if child == 0:
                os.read(theirs.fileno(), 1); os._exit(0)
            os.close(received); yield None
            ours.send(b"y"); os.waitpid(child, 0)

        machine = Machine()
        os.close(machine.iommufd)
        for fd in references(machine.device):
            assert not free()
            if fd is not None:
                call(fd, 0x3B6B, "=6I", 0, 0, 0, 0, 0)
        assert free()
        """,
    )


def test_a_release_is_complete_before_the_next_call(run: Runner) -> None:
    passes(
        run,
        """
        from edu import *
        for _ in range(200):
            machine = Machine()
            os.close(machine.device)
            os.close(machine.iommufd)
        """,
    )


def test_a_release_needs_no_further_call(run: Runner) -> None:
    passes(
        run,
        """
        from edu import *
        ready, done = os.pipe()
        eventfd = os.eventfd(0)
        machine = Machine()
        call(machine.device, 0x3B6E, "=5Ii", 4 | 32, 1, 0, 1, eventfd)
        os.close(machine.device); os.close(machine.iommufd)
        time.sleep(0.1)
        """,
    )


def test_copies_stay_where_calls_on_them_are_served(run_as_anyone: Runner) -> None:
    passes(
        run_as_anyone,
        """
        from edu import *
        machine = Machine()
        copies = [os.dup(machine.device), fcntl.fcntl(machine.device, fcntl.F_DUPFD, 3)]
        copies.append(os.dup2(machine.device, 1000))
        for copy in copies:
            assert os.pread(copy, 4, CONFIG) == bytes.fromhex("3412e811")
        assert not os.get_inheritable(copies[0]) and os.get_inheritable(copies[1])
        """,
    )


def test_closed_and_foreign_descriptors_are_refused_as_by_the_kernel(run: Runner) -> None:
    passes(
        run,
        """
        from edu import *
        iommufd = os.open("/dev/iommu", os.O_RDWR)
        def fails(fd, number):
            try:
                fcntl.ioctl(fd, CHECK_EXTENSION, 1)
            except OSError as error:
                assert error.errno == number, error
            else:
                raise AssertionError
        copy = os.dup(iommufd)
        os.close(copy)
        fails(copy, 9)
        fails(os.open("/dev/null", os.O_RDWR), 25)
        os.dup2(os.open("/dev/null", os.O_RDWR), iommufd)
        fails(iommufd, 25)
        try:
            fcntl.ioctl(2**31 - 1, CHECK_EXTENSION, 1)
        except OSError as error:
            assert error.errno == 9
        """,
    )


def test_close_on_exec_is_kept(run: Runner) -> None:
    passes(
        run,
        """
        from edu import *
        import subprocess
        kept, closed = os.open("/dev/iommu", os.O_RDWR), os.open("/dev/iommu", os.O_RDWR | os.O_CLOEXEC)
        os.set_inheritable(kept, True)
        code = (
            "import fcntl, sys\\n"
            "try: sys.exit(fcntl.ioctl(int(sys.argv[1]), 0x3B65, 1))\\n"
            "except OSError as e: sys.exit(e.errno)"
        )
        def use(fd): return subprocess.run([sys.executable, "-c", code, str(fd)], close_fds=False).returncode
        assert (use(kept), use(closed)) == (1, 9)
        """,
    )


def test_device_files_poll_as_ready_and_cannot_be_added_to_epoll_like_files_without_a_poll_operation(
    run: Runner,
) -> None:
    passes(
        run,
        """
        from edu import *
        import select
        for path in ("/dev/iommu", "/dev/vfio/devices/vfio0"):
            fd = os.open(path, os.O_RDWR)
            assert select.select([fd], [fd], [], 0)[:2] == ([fd], [fd])
            poll = select.poll(); poll.register(fd, 0x145)
            assert poll.poll(0) == [(fd, 0x145)]
            try:
                select.epoll().register(fd, select.EPOLLIN)
            except PermissionError as error:
                assert error.errno == 1
            else:
                raise AssertionError
        faults = call(os.open("/dev/iommu", os.O_RDWR), 0x3B8E, "=4I", 0, 0, 0)[3]  # a queue of page faults has one
        queue = select.epoll(); queue.register(faults, select.EPOLLIN | select.EPOLLOUT)
        assert queue.poll(0) == [(faults, select.EPOLLOUT)]
        """,
    )


def test_epoll_waits_for_the_eventfd_of_an_interrupt(run_as_anyone: Runner) -> None:
    passes(
        run_as_anyone,
        """
        from edu import *
        import select
        machine, eventfd = Machine(), os.eventfd(0, os.EFD_NONBLOCK)
        poll = select.epoll(); poll.register(eventfd, select.EPOLLIN | select.EPOLLET)
        call(machine.device, 0x3B6E, "=5Ii", 4 | 32, 1, 0, 1, eventfd)
        for _ in range(3):
            assert poll.poll(0) == []
            machine.register(0x60, 1)
            assert poll.poll(5) == [(eventfd, select.EPOLLIN)]
            machine.register(0x64, 1)
            assert os.eventfd_read(eventfd) == 1
        """,
    )


def test_an_interrupt_arrives_though_the_program_has_closed_its_own_eventfd(run_as_anyone: Runner) -> None:
    passes(
        run_as_anyone,
        """
        from edu import *
        import select
        machine = Machine()
        eventfd = os.eventfd(0)
        copy = os.dup(eventfd)
        call(machine.device, 0x3B6E, "=5Ii", 4 | 32, 1, 0, 1, eventfd)
        os.close(eventfd)
        machine.register(0x60, 1)
        assert select.select([copy], [], [], 5)[0] and os.eventfd_read(copy) == 1
        for fd, number in ((copy + 50, 9), (0, 22)):
            try:
                call(machine.device, 0x3B6E, "=5Ii", 4 | 32, 1, 0, 1, fd)
            except OSError as error:
                assert error.errno == number, error
            else:
                raise AssertionError
        """,
    )

"""Queues of page faults: a program reads them and answers, and waits for them by poll, as for any descriptor."""

from __future__ import annotations

from tests.run.conftest import Runner
from tests.run.test_container import confined

FAULTS = """
    import fcntl, os, select, struct
    iommufd = os.open("/dev/iommu", os.O_RDWR)

    def call(number, form, *values, room=0):
        data = bytearray(struct.pack(form, struct.calcsize(form), *values) + bytes(room))
        data[0:4] = len(data).to_bytes(4, "little")
        fcntl.ioctl(iommufd, 0x3B00 | number, data)
        return struct.unpack_from(form, data)

    def test(op, number, *words):
        data = bytearray(struct.pack(f"=4I{len(words)}I", 72, op, number, 0, *words).ljust(72, b"\\0"))
        fcntl.ioctl(iommufd, 0x3BA0, data)
        return struct.unpack_from("=18I", data)

    ioas = call(0x81, "=3I", 0, 0)[2]
    mock = test(2, ioas)
    stdev, _, device = mock[4:7]
    _, _, queue, faults = call(0x8E, "=4I", 0, 0, 0)
    data = struct.pack("=2I", 7, 0)
    import ctypes
    kept = ctypes.create_string_buffer(data)
    parent = call(0x89, "=8IQ2I", 1, device, ioas, 0, 0, 0, 0, 0, 0, 0)[4]
    nested = call(0x89, "=8IQ2I", 4, device, parent, 0, 0, 0xDEAD, 8, ctypes.addressof(kept), queue, 0)[4]
    test(10, stdev, nested)
    ready = select.poll()
    ready.register(faults, select.POLLIN)
    for group in range(3):
        assert ready.poll(0) == [], group
        test(15, 0, device, 0, group, 3, 0xDEAD0000, 0)
        assert ready.poll(1000), group
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.read(faults, ctypes.c_void_p(1 << 46), 40) == -1 and ctypes.get_errno() == 14
        fault = struct.unpack("=6IQ2I", os.read(faults, 40))
        assert fault[1] == device and fault[3] == group and fault[6] == 0xDEAD0000, fault
        assert os.write(faults, struct.pack("=2I", fault[8], 0)) == 8
        assert os.read(faults, 40) == b""
    print("answered")
"""


def test_faults_are_waited_for_read_and_answered(run_as_anyone: Runner) -> None:
    done = run_as_anyone.python(FAULTS, options=["--iommufd-test"])
    assert (done.stderr, done.stdout) == ("", "answered\n")


def test_where_descriptors_cannot_be_copied_reading_works_all_the_same(run: Runner) -> None:
    source = FAULTS.replace("assert ready.poll(0) == [], group", "pass")
    done = confined(run, *run.command(*run.script(source), options=["--iommufd-test"]))
    assert (done.stderr, done.stdout) == ("", "answered\n")

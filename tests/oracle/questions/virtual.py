"""SR-IOV: virtual functions of the first PF that the machine has, and the tokens that they are opened with."""

from __future__ import annotations

import os
import struct
import uuid
from pathlib import Path

from questions.calls import (
    MEMORY,
    PAGE,
    Files,
    ask,
    attempt,
    call,
    memory,
    outcome,
    poke,
    pread,
    pwrite,
    raw_ioctl,
    say,
)
from questions.shapes import BIND, CONFIG, FEATURE, HOT_RESET, HOT_RESET_INFO

DEVICES = Path("/sys/bus/pci/devices")
SWITCH = Path("/sys/module/vfio_pci/parameters/enable_sriov")
_SET, _GET, _PROBE = 1 << 17, 1 << 16, 1 << 18
_GET_DEVICE_FD, _SET_CONTAINER = 0x3B6A, 0x3B68
ONE, TWO = uuid.UUID(int=0x1111 << 64), uuid.UUID(int=0x2222 << 64)
OWNED, NOT_OWNED = 0, (1 << 32) - 1


def _pf() -> Path:
    """The first physical function."""
    return next(path for path in sorted(DEVICES.iterdir()) if (path / "sriov_totalvfs").exists())


def _write(label: str, path: Path, text: str) -> None:
    """Write as echo does, and write down what came of it."""

    def write() -> str:
        fd = os.open(path, os.O_WRONLY)
        try:
            os.write(fd, f"{text}\n".encode())
        finally:
            os.close(fd)
        return "0"

    attempt(label, write)


def _enable(number: int) -> Path:
    """Quietly: the switch on, and so many VFs; the PF."""
    pf = _pf()
    SWITCH.write_text("Y\n")
    (pf / "sriov_numvfs").write_text(f"{number}\n")
    return pf


def _cdev(files: Files, function: Path) -> int:
    (name,) = os.listdir(function / "vfio-dev")
    return files.open(f"/dev/vfio/devices/{name}")


def _bind(fd: int, iommufd: int, token: uuid.UUID | None) -> int:
    """BIND_IOMMUFD with a token at MEMORY, or without; the result."""
    if token is not None:
        poke(MEMORY, token.bytes)
    return call(fd, BIND, iommufd=iommufd, flags=token is not None, token_uuid_ptr=MEMORY if token else 0).result


def _token(fd: int, token: uuid.UUID, flags: int = _SET, length: int = 16) -> int:
    """The VF token feature; the result."""
    tail = token.bytes[:length]
    return call(fd, FEATURE, tail=tail, argsz=8 + len(tail), flags=flags).result


def numbers() -> None:
    """What can be written to sriov_numvfs, and when."""
    pf = _pf()
    path = pf / "sriov_numvfs"
    for name in ("totalvfs", "numvfs", "stride", "drivers_autoprobe", "vf_total_msix"):
        say(name, (pf / f"sriov_{name}").read_text().strip())
    SWITCH.write_text("N\n")
    _write("0 without the switch", path, "0")
    _write("1 without the switch", path, "1")
    SWITCH.write_text("Y\n")
    for text in ("9", "65536", "-1", "x", "", "1x", "0x1", "1", "01", "+1", "2", "9", " 1", "0", "0"):
        _write(
            f"{text!r} with {path.read_text().strip()} there ({sum(1 for _ in pf.glob('virtfn*'))} links)", path, text
        )
    for text in ("2", "maybe", "0", "1", "off", "on", "y"):
        _write(f"autoprobe {text!r}", pf / "sriov_drivers_autoprobe", text)
        say(f"autoprobe after {text!r}", (pf / "sriov_drivers_autoprobe").read_text().strip())


def appearance() -> None:
    """What sysfs shows of VFs."""
    pf = _enable(2)
    for index in range(2):
        vf = (pf / f"virtfn{index}").resolve()
        say(f"virtfn{index} address", vf.name[-4:])
        say(f"virtfn{index} physfn", (vf / "physfn").resolve() == pf.resolve())
        say(f"virtfn{index} driver", (vf / "driver").resolve().name)
        say(f"virtfn{index} override", (vf / "driver_override").read_text().strip())
        say(f"virtfn{index} group members", len(os.listdir(vf / "iommu_group/devices")))
        say(f"virtfn{index} vendor", (vf / "vendor").read_text() == (pf / "vendor").read_text())
        say(
            f"virtfn{index} device",
            (vf / "device").read_text().strip()[2:] == (pf / "sriov_vf_device").read_text().strip(),
        )
        say(f"virtfn{index} config", (vf / "config").read_bytes()[:4].hex())
        say(
            f"virtfn{index} files of its own",
            sorted(set(os.listdir(vf)) & {"sriov_vf_msix_count", "sriov_numvfs", "rom"}),
        )
    _enable(0)
    say("gone", any(pf.glob("virtfn*")))
    (pf / "sriov_drivers_autoprobe").write_text("0\n")
    _enable(1)
    vf = (pf / "virtfn0").resolve()
    say("driver without autoprobe", (vf / "driver").exists())
    say("override without autoprobe", (vf / "driver_override").read_text().strip())
    _write("probe", Path("/sys/bus/pci/drivers_probe"), vf.name)
    say("driver after the probe", (vf / "driver").resolve().name)
    _enable(0)
    (pf / "sriov_drivers_autoprobe").write_text("1\n")


def tokens() -> None:
    """Who may open what with which token, by cdev."""
    with Files() as files, memory(PAGE):
        pf = _enable(1)
        vf = (pf / "virtfn0").resolve()
        iommufd = files.iommufd()
        for token in (None, ONE, uuid.UUID(int=0)):
            say(f"VF with {token} before any", outcome(min(0, _bind(_cdev(files, vf), iommufd, token))))
        physical = _cdev(files, pf)
        bad = call(physical, BIND, iommufd=iommufd, flags=1, token_uuid_ptr=0x1000).result
        say("PF with a token nowhere", outcome(bad))
        say("PF without", outcome(min(0, _bind(physical, iommufd, None))))
        say("feature", outcome(_token(physical, ONE)))
        for flags, length in ((_GET, 16), (0, 16), (_SET | _PROBE, 0), (_GET | _PROBE, 0), (_SET, 15), (_SET, 8)):
            say(f"feature flags {flags:#x} with {length} bytes", outcome(_token(physical, ONE, flags, length)))
        virtual = _cdev(files, vf)
        for token in (None, TWO, ONE):
            say(f"VF with {token}", outcome(min(0, _bind(virtual, iommufd, token))))
        say("feature of the VF", outcome(_token(virtual, ONE)))
        say("probe of the VF's feature", outcome(_token(virtual, ONE, _SET | _PROBE, 0)))
        files.close(physical)
        physical = _cdev(files, pf)
        for token in (None, TWO, ONE):
            say(f"PF with {token} while the VF is open", outcome(min(0, _bind(physical, iommufd, token))))
        say("another token while the VF is open", outcome(_token(physical, TWO)))
        files.close(virtual)
        virtual = _cdev(files, vf)
        for token in (ONE, TWO):
            say(f"VF with {token} afterwards", outcome(min(0, _bind(virtual, iommufd, token))))
    _enable(0)


def names() -> None:
    """The same by groups: the token stands behind the name."""
    with Files() as files:
        pf = _enable(1)
        vf = (pf / "virtfn0").resolve()
        physical = _cdev(files, pf)
        with memory(PAGE):
            say("PF", outcome(min(0, _bind(physical, files.iommufd(), ONE))))
        group = files.open(f"/dev/vfio/{(vf / 'iommu_group').resolve().name}")
        container = struct.pack("i", files.iommufd())
        with memory(PAGE):
            poke(MEMORY, container)
            say("container", outcome(raw_ioctl(group, _SET_CONTAINER, MEMORY)))
            for options in (
                "",
                " ",
                f" vf_token={TWO}",
                f" vf_token={str(ONE)[:-1]}",
                f" vf_token={str(ONE).replace('-', '.')}",
                f" vf_token={ONE}x",
                f" vf_token={ONE} x",
                f" vf_token={ONE} vf_token={ONE}",
                f" vf_token = {ONE}",
                f" token={ONE}",
                f"vf_token={ONE}",
                f"  vf_token={str(ONE).upper()}  ",
                f" vf_token={ONE}",
            ):
                poke(MEMORY, f"{vf.name}{options}".encode() + b"\0")
                result = raw_ioctl(group, _GET_DEVICE_FD, MEMORY)
                say(f"VF{options!r}", outcome(min(0, result)))
                if result >= 0:
                    os.close(result)
    _enable(0)


def device_files() -> None:
    """What a VF's device file shows, and what VFs change of their PF's."""
    with Files() as files, memory(PAGE):
        pf = _enable(1)
        vf = (pf / "virtfn0").resolve()
        iommufd = files.iommufd()
        physical, virtual = _cdev(files, pf), _cdev(files, vf)
        say("PF", outcome(min(0, _bind(physical, iommufd, ONE))))
        say("VF", outcome(min(0, _bind(virtual, iommufd, ONE))))
        ids = (int((vf / name).read_text(), 16) for name in ("vendor", "device"))
        say("ids", pread(virtual, 4, CONFIG) == struct.pack("<HH", *ids))
        for value in (None, 0, 2, 7, 0x407):
            if value is not None:
                pwrite(virtual, struct.pack("<H", value), CONFIG + 4)
            command = pread(virtual, 2, CONFIG + 4)
            say(f"command after {value}", command.hex() if isinstance(command, bytes) else outcome(command))
            register = pread(virtual, 4, 0)
            say(f"memory after command {value}", outcome(register) if isinstance(register, int) else "answers")
        say("interrupt pin", pread(virtual, 1, CONFIG + 0x3D) == b"\0")
        for fd, name in ((physical, "PF"), (virtual, "VF")):
            answer = call(fd, HOT_RESET_INFO, tail=bytes(64), argsz=12 + 64)
            found = [struct.unpack_from("=I", answer.data, 12 + 8 * index)[0] for index in range(answer["count"])]
            kinds = ["not owned" if each == NOT_OWNED else "owned" if each == OWNED else "an id" for each in found]
            say(f"hot reset information of the {name}", f"{outcome(answer.result)} flags={answer['flags']} {kinds}")
            ask(f"hot reset of the {name}", fd, HOT_RESET)
        power = _capability(physical, 1)
        pwrite(physical, b"\x03\x00", CONFIG + power + 4)
        state = pread(physical, 1, CONFIG + power + 4)
        say("the PF's power state with a VF", state[0] & 3 if isinstance(state, bytes) else outcome(state))
    _enable(0)


def _capability(fd: int, wanted: int) -> int:
    """Where a capability stands. Raises ValueError when there is none."""
    place = pread(fd, 1, CONFIG + 0x34)
    for _ in range(48):
        if not isinstance(place, bytes) or not place[0]:
            break
        head = pread(fd, 2, CONFIG + place[0])
        if isinstance(head, bytes) and head[0] == wanted:
            return place[0]
        place = head[1:] if isinstance(head, bytes) else b""
    raise ValueError(f"no capability {wanted:#x}")


SECTIONS = (numbers, appearance, tokens, names, device_files)

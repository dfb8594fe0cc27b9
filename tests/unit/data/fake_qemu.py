"""Stands in for QEMU: finds the guest's ports among its arguments and plays the guest that its first argument names."""

import json
import os
import re
import signal
import socket
import sys
import time
from collections.abc import Callable

PORTS = {
    name: socket.socket(fileno=int(number))
    for name, number in re.findall(r"socket,id=(\w+),fd=(\d+)", " ".join(sys.argv))
}


def tell(**event: object) -> None:
    PORTS["control"].sendall(json.dumps(event).encode() + b"\n")


def up() -> dict[str, object]:
    tell(event="up")
    job = json.loads(PORTS["control"].makefile().readline())
    tell(event="ready")
    return job


def well() -> None:
    job = up()
    PORTS["out"].sendall(json.dumps(job).encode())
    PORTS["err"].sendall(b"to the other stream")
    tell(event="status", status=7)


def panic() -> None:
    up()
    print("Kernel panic - not syncing: no more")


def broken() -> None:
    print("qemu: no such machine")
    sys.exit(1)


def killed() -> None:
    up()
    os.kill(os.getpid(), signal.SIGKILL)


def off() -> None:
    up()


def dark() -> None:
    print("booting", flush=True)
    time.sleep(60)


def silent() -> None:
    up()
    print("stuck", flush=True)
    time.sleep(60)


def busy() -> None:
    up()
    while True:
        tell(event="beat")
        time.sleep(0.05)


def lingering() -> None:
    up()
    tell(event="status", status=0)
    time.sleep(60)


def babbling() -> None:
    PORTS["control"].sendall(bytes.fromhex(os.environ["BABBLE"]) + b"\n")
    time.sleep(60)


SCENES: dict[str, Callable[[], object]] = {
    scene.__name__: scene for scene in (well, panic, broken, killed, off, dark, silent, busy, lingering, babbling)
}
SCENES[sys.argv[1]]()

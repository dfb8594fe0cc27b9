"""Two hundred kinds of instruction on a mapped BAR: the device sees the accesses that they make, and no others."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ioas.run.mmio import compiled
from tests.run.clients.kinds import SLOT, Kind, contents, is_portal, kinds

CLIENTS = Path(__file__).parent / "clients"
PER_THREAD = 1 << 16


def features() -> frozenset[str]:
    with open("/proc/cpuinfo") as info:
        return frozenset(next(line for line in info if line.startswith("flags")).split())


@pytest.fixture(params=[1, 8], ids=["one thread", "8 threads"])
def count(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture(params=["compiled", "python"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the compiled part, and without."""
    if request.param == "python":
        monkeypatch.setenv(compiled.SWITCH, "no")
    elif compiled.library() is None:
        pytest.skip("ioas was installed where there is no C compiler")


def expected(table: list[Kind], thread: int) -> list[list[object]]:
    base = thread * PER_THREAD
    return [
        [verb, base + number * SLOT + offset, length]
        for number, kind in enumerate(table)
        for verb, offset, length in kind.accesses
    ]


@pytest.mark.usefixtures("way")
def test_the_device_sees_exactly_the_accesses_of_each_kind_of_instruction(count: int, tmp_path: Path) -> None:
    table = kinds(features())
    assert len(table) >= 200
    log, plain = tmp_path / "log", tmp_path / "plain"
    command = [sys.executable, "-B", str(CLIENTS / "mmio_host.py"), str(log)]
    program = [sys.executable, "-B", str(CLIENTS / "mmio_kinds.py"), str(count), str(plain)]
    done = subprocess.run(
        [*command, *program], check=False, capture_output=True, text=True, timeout=120, env=os.environ
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    seen = json.loads(log.read_text())
    for thread in range(count):
        base = thread * PER_THREAD
        mine = [
            [verb, offset, len(data) // 2] for verb, offset, data in seen["log"] if base <= offset < base + PER_THREAD
        ]
        assert mine == expected(table, thread)
    assert len(seen["log"]) == count * len(expected(table, 0))
    held = bytearray.fromhex(seen["contents"])
    assert held[count * PER_THREAD :] == contents(count * PER_THREAD, len(held) - count * PER_THREAD)
    for number, kind in enumerate(table):
        for thread in range(count):
            at = slice(thread * PER_THREAD + number * SLOT, thread * PER_THREAD + (number + 1) * SLOT)
            if not is_portal(kind):
                assert held[at] == plain.read_bytes()[at], kind.name


def test_a_store_of_64_bytes_reaches_the_device_as_one_also_where_the_processor_lacks_the_instruction(
    tmp_path: Path,
) -> None:
    table = kinds(features())
    log, plain = tmp_path / "log", tmp_path / "plain"
    command = [sys.executable, "-B", str(CLIENTS / "mmio_host.py"), str(log)]
    program = [sys.executable, "-B", str(CLIENTS / "mmio_kinds.py"), "1", str(plain)]
    subprocess.run([*command, *program], check=True, timeout=120)
    stores = {offset // SLOT: data for verb, offset, data in json.loads(log.read_text())["log"] if len(data) == 128}
    source = bytes(n * 29 + 7 & 0x7F for n in range(64))
    names = {table[number].name: bytes.fromhex(data) for number, data in stores.items() if number < len(table)}
    assert names["movdir64b"] == source
    assert names["enqcmd"] == bytes(4) + source[4:]

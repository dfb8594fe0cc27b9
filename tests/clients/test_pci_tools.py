"""lspci, setpci and dpdk-devbind.py find the software machine's devices, and bind them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.clients.conftest import ADDRESS, EDU
from tests.run.conftest import Runner

NAMESPACES = pytest.mark.parametrize("options", [(), ("--no-namespace",)], ids=["namespace", "by path"])
CARD = """
from ioas.devices.edu import Edu

class Card(Edu):
    "An edu that says it is a network card, which is what dpdk-devbind.py looks for."

    model = "card"
    class_code = 0x020000
"""


def output(run: Runner, environment: Mapping[str, str], *words: str, options: tuple[str, ...] = ()) -> str:
    done = run(*words, options=options, env=dict(environment))
    assert done.returncode == 0, done.stderr
    return done.stdout


@NAMESPACES
def test_lspci_lists_the_machine_and_nothing_else(
    run: Runner, pci_tools: Mapping[str, str], options: tuple[str, ...]
) -> None:
    assert output(run, pci_tools, "lspci", "-n", options=options).splitlines() == [
        "00:00.0 0600: 8086:29c0",
        "00:01.0 0604: 1b36:000c",
        f"01:00.0 00ff: {EDU} (rev 10)",
    ]


@NAMESPACES
def test_lspci_decodes_the_device(run: Runner, pci_tools: Mapping[str, str], options: tuple[str, ...]) -> None:
    said = output(run, pci_tools, "lspci", "-vvv", "-n", "-s", ADDRESS, options=options)

    assert re.search(r"Region 0: Memory at [0-9a-f]+ \(32-bit, non-prefetchable\) \[size=1M\]", said)
    assert "MSI: Enable- Count=1/1 Maskable- 64bit+" in said
    assert "IOMMU group:" in said
    assert "Kernel driver in use: vfio-pci" in said


def test_setpci_reads_registers(run: Runner, pci_tools: Mapping[str, str]) -> None:
    words = ["setpci", "-s", ADDRESS, "VENDOR_ID", "DEVICE_ID", "REVISION"]
    assert output(run, pci_tools, *words).split() == [*EDU.split(":"), "10"]


@NAMESPACES
def test_setpci_writes_registers(run: Runner, pci_tools: Mapping[str, str], options: tuple[str, ...]) -> None:
    script = "setpci -s $1 COMMAND; setpci -s $1 COMMAND=4:4; setpci -s $1 COMMAND"

    assert output(run, pci_tools, "sh", "-ec", script, "sh", ADDRESS, options=options).split() == ["0103", "0107"]


def test_dpdk_devbind_takes_the_device_from_vfio_and_gives_it_back(
    run: Runner, pci_tools: Mapping[str, str], tmp_path: Path
) -> None:
    (tmp_path / "card.py").write_text(CARD)
    metadata = tmp_path / "card-1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: card\nVersion: 1\n")
    (metadata / "entry_points.txt").write_text("[ioas.devices]\ncard = card:Card\n")
    script = """
show() { dpdk-devbind.py --status-dev net | grep ^0000; find /dev/vfio/devices -type c; }
show
dpdk-devbind.py --unbind 0000:01:00.0; show
dpdk-devbind.py --bind vfio-pci 0000:01:00.0; show
"""
    environment = {**pci_tools, "PYTHONPATH": str(tmp_path)}

    assert output(run, environment, "sh", "-c", script, options=("--device", "card")).splitlines() == [
        f"{ADDRESS} 'Device 11e8' drv=vfio-pci unused=",
        "/dev/vfio/devices/vfio0",
        f"{ADDRESS} 'Device 11e8' unused=vfio-pci",
        f"{ADDRESS} 'Device 11e8' drv=vfio-pci unused=",
        "/dev/vfio/devices/vfio0",
    ]

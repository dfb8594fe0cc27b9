"""docs/machines.md: its machines can be built, and it describes every key that there is and no other."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ioas.soft.host import SoftHost, machine_file, machine_units
from tests.docs.test_documentation import ROOT, blocks

PAGE = ROOT / "docs" / "machines.md"


@pytest.mark.parametrize("text", blocks(PAGE, "toml"))
def test_the_machines_can_be_built(text: str, tmp_path: Path) -> None:
    file = tmp_path / "lab.toml"
    file.write_text(text)
    with SoftHost(machine=file) as host:
        assert len(host.functions) == text.count("[[device]]")
        assert len(host.system.units) == (text.count("[[unit]]") or 1)


@pytest.mark.parametrize(
    ("heading", "keys"),
    [
        ("[machine]", machine_file.MACHINE_KEYS),
        ("[[unit]]", machine_units.UNIT_KEYS),
        ("[[device]]", machine_file.DEVICE_KEYS),
    ],
)
def test_every_key_has_a_row(heading: str, keys: tuple[str, ...]) -> None:
    section = PAGE.read_text().partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    table = section.partition("A reserved region")[0]
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == list(keys)

"""The cache never shows a half-made entry."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.kernel.cache import published, root


def test_an_entry_appears_only_when_it_is_finished(tmp_path: Path) -> None:
    target = tmp_path / "entry"

    with published(target) as work:
        (work / "file").write_text("whole")
        assert not target.exists()

    assert (target / "file").read_text() == "whole"
    assert [path.name for path in tmp_path.iterdir()] == ["entry"]


def test_a_failure_leaves_the_old_entry_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "entry"
    target.mkdir()

    with pytest.raises(RuntimeError), published(target):
        raise RuntimeError

    assert list(tmp_path.iterdir()) == [target]


def test_what_a_killed_run_left_behind_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".entry.abc").mkdir()

    with published(tmp_path / "entry"):
        pass

    assert [path.name for path in tmp_path.iterdir()] == ["entry"]


def test_the_cache_is_where_the_xdg_variable_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    assert root() == tmp_path / "ioas"

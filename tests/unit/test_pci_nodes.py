"""The file system in memory: paths and links as the kernel resolves them."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from ioas.soft.pci import CharDevice, Directory, Link, Text, Tree


@pytest.fixture
def tree() -> Tree:
    tree = Tree()
    tree.add("/a/b/text", Text(b"text\n"))
    tree.add("/a/c/live", Text(lambda: b"now\n", 0o600))
    tree.link("/links/b", "/a/b")
    tree.link("/a/b/up", "/a")
    tree.add("/dev/null", CharDevice(1, 3, 0o666))
    return tree


def test_links_are_relative_to_where_they_stand(tree: Tree) -> None:
    assert tree.readlink("/links/b") == "../a/b"


def test_a_link_to_a_directory_above_goes_by_its_name_as_the_kernels_do(tree: Tree) -> None:
    assert tree.readlink("/a/b/up") == "../../a"


def test_paths_are_resolved_through_links_and_dots(tree: Tree) -> None:
    assert tree.read("/links/b/text") == b"text\n"
    assert tree.read("/links/b/up/c/./live") == b"now\n"
    assert tree.read("/links/b/../c/live") == b"now\n", "dots go by the place, not by the name"
    assert tree.realpath("/links/b/up/c") == "/a/c"
    assert tree.realpath("/../..") == "/"


def test_the_last_link_is_followed_only_on_demand(tree: Tree) -> None:
    assert tree.get("/links/b", follow=False) == Link("../a/b")
    assert isinstance(tree.get("/links/b"), Directory)


@pytest.mark.parametrize(
    ("path", "error"),
    [("/a/x", FileNotFoundError), ("/a/b/text/x", NotADirectoryError), ("/a/b", IsADirectoryError)],
)
def test_errors_are_those_of_system_calls(tree: Tree, path: str, error: type[OSError]) -> None:
    with pytest.raises(error):
        tree.read(path)


def test_links_in_a_circle_are_given_up(tree: Tree) -> None:
    tree.add("/loop", Link("loop"))
    with pytest.raises(OSError, match="Too many levels"):
        tree.get("/loop")


def test_a_name_is_taken_once(tree: Tree) -> None:
    with pytest.raises(FileExistsError):
        tree.add("/a/b/text", Text(b""))
    with pytest.raises(NotADirectoryError):
        tree.add("/a/b/text/more", Text(b""))
    tree.remove("/a/b/text")
    with pytest.raises(FileNotFoundError):
        tree.remove("/a/b/text")
    tree.add("/a/b/text", Text(b"new"))
    assert tree.read("/a/b/text") == b"new"


def test_only_a_text_that_takes_writes_is_written(tree: Tree) -> None:
    got: list[bytes] = []
    tree.add("/a/reset", Text(b"", 0o200, got.append))
    tree.write("/a/reset", b"1\n")
    assert got == [b"1\n"]
    with pytest.raises(PermissionError):
        tree.write("/a/b/text", b"x")


def test_a_tree_on_disk_reads_as_in_memory(tree: Tree, tmp_path: Path) -> None:
    tree.add("/a/resource0", Text(b"", 0o600, size=1 << 20))
    tree.materialise(tmp_path)
    assert (tmp_path / "links/b/text").read_bytes() == b"text\n"
    assert os.readlink(tmp_path / "links/b") == "../a/b"
    assert (tmp_path / "links/b/up").resolve() == tmp_path / "a"
    assert stat.S_IMODE((tmp_path / "a/c/live").stat().st_mode) == 0o600
    assert (tmp_path / "a/resource0").stat().st_size == 1 << 20
    assert (tmp_path / "dev/null").read_bytes() == b""

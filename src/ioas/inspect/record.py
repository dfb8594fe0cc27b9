"""The record of what functions had before they were bound: a file that is there while something can be undone."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypedDict

from ioas.errors import EnvironmentRefusal, UsageError


class Was(TypedDict):
    """What a function had: the name of its driver, its `driver_override`; None: none."""

    driver: str | None
    override: str | None


def read(file: Path) -> Mapping[str, Was]:
    """What is recorded, by BDF.

    Raises UsageError when the file is no such record, and EnvironmentRefusal when it cannot be read.
    """
    try:
        found = json.loads(file.read_bytes())
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise EnvironmentRefusal(f"{file}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{file} cannot be understood ({error}); remove it") from error
    if not isinstance(found, dict):
        raise UsageError(f"{file} cannot be understood (it holds no object); remove it")
    for bdf, was in found.items():
        if not _is_entry(was):
            raise UsageError(f"{file} cannot be understood ({bdf}: no driver and override); remove it")
    return found


def save(file: Path, recorded: Mapping[str, Was]) -> None:
    """Make the record say this, at once or not at all; with nothing to undo there is no file. Raises OSError."""
    if not recorded:
        file.unlink(missing_ok=True)
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    new = file.with_name(f"{file.name}.new")
    new.write_text(json.dumps(recorded))
    new.replace(file)


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """Be the only one who changes the machine, from the look at it to the last step: two at once would undo each other.

    A lock file beside the record, which the kernel frees when its holder ends, however that comes. Raises
    EnvironmentRefusal: another one is at work, or there can be no lock file.
    """
    lock = file.with_name(f"{file.name}.lock")
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        opened = lock.open("a+")
    except OSError as error:
        raise EnvironmentRefusal(f"{lock}: {error.strerror}") from error
    with opened:
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            opened.seek(0)
            who = opened.read().strip()
            raise EnvironmentRefusal(
                f"another ioas bind or unbind is at work{f' (pid {who})' if who else ''}"
            ) from error
        opened.truncate(0)
        opened.write(str(os.getpid()))
        opened.flush()
        yield


def _is_entry(was: object) -> bool:
    return (
        isinstance(was, dict)
        and was.keys() == {"driver", "override"}
        and all(name is None or isinstance(name, str) for name in was.values())
    )

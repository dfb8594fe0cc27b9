"""`Supervisor`: runs one program on one machine and answers for the machine until nobody uses it any more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from ioas.host import Capability, Host


class Machine(Host, Protocol):
    """What a supervisor wants of a host beyond `Host.open`; `ioas.soft.host.SoftHost` has it all."""

    grants: frozenset[Capability]
    """Capabilities that every caller has on this machine."""
    strict: bool
    """Refuse to pin memory that would not stay pinned."""

    def close(self) -> None:
        """Close what is still open and stop every thread. Idempotent."""
        ...


@dataclass(frozen=True, slots=True)
class Options:
    """How a program is run.

    `explain`: report each refused call, DMA fault and pin by address on standard error. `summary`: say at the
    end what was called. Strictness and granted capabilities are the machine's.
    """

    explain: bool = False
    summary: bool = False


class Supervisor:
    """Runs one program. An object serves once."""

    def __init__(self, machine: Machine, argv: Sequence[str], options: Options = Options()) -> None:
        """`argv`: the program, looked up in PATH, and its arguments; `machine` is closed at the end of `run`."""
        raise NotImplementedError

    def run(self, environment: Mapping[str, str] | None = None) -> int:
        """Run the program; return when no process that it started uses the machine any more.

        Returns its exit status, or minus the number of the signal that killed it. Takes this process over
        while it runs: signals, standard input and output, inherited descriptors (see `ioas.run.jobs`).

        Raises ProgramError: it cannot be started; EnvironmentRefusal: seccomp notification is not available.
        """
        raise NotImplementedError

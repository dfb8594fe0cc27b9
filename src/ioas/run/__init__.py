"""`ioas run`: an unmodified program on a software machine, its system calls answered by seccomp user notification.

`Supervisor` starts the program and serves it; `check_environment` says what this environment allows.
"""

from ioas.run.check import Finding, check_environment
from ioas.run.jobs import end_like, take_signals
from ioas.run.launch import reserve_standard_descriptors
from ioas.run.machine import Machine
from ioas.run.program import ProgramError, find_program
from ioas.run.supervisor import Options, Supervisor

__all__ = [
    "Finding",
    "Machine",
    "Options",
    "ProgramError",
    "Supervisor",
    "check_environment",
    "end_like",
    "find_program",
    "reserve_standard_descriptors",
    "take_signals",
]

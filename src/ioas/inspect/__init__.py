"""Inventory and diagnosis of a machine: what `ioas ls` and `ioas doctor` know."""

from ioas.inspect.capture import capture
from ioas.inspect.case import PURPOSES, Case, Finding, Purpose, Wanted
from ioas.inspect.doctor import Diagnosis, diagnose
from ioas.inspect.inventory import Function, Group, Inventory, Unit, take
from ioas.inspect.look import looked_at
from ioas.inspect.machine import ROOT, Machine, Node, User, check_bdf

__all__ = [
    "PURPOSES",
    "ROOT",
    "Case",
    "Diagnosis",
    "Finding",
    "Function",
    "Group",
    "Inventory",
    "Machine",
    "Node",
    "Purpose",
    "Unit",
    "User",
    "Wanted",
    "capture",
    "check_bdf",
    "diagnose",
    "looked_at",
    "take",
]

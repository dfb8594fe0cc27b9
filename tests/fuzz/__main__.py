"""``python -m tests.fuzz``: many sequences of random calls, with the branches of ioas.soft.iommufd that they take."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import click
from coverage import Coverage


@click.command()
@click.option("--calls", default=100_000, show_default=True, help="How many calls, at least.")
@click.option("--seed", default=1, show_default=True, help="The same seed makes the same calls.")
@click.option("--sequence", type=int, help="Play this one sequence of the seed.")
@click.option("--coverage/--no-coverage", default=True, show_default=True, help="Count branches (slower).")
@click.option("--missing", is_flag=True, help="Name the lines and branches that were not reached.")
def main(calls: int, seed: int, sequence: int | None, coverage: bool, missing: bool) -> None:
    """Fuzz iommufd's dispatcher in this process: every exception must be a KernelError, and nothing be left.

    What goes wrong is shortened and shown, once for each kind.
    """
    measured = Coverage(data_file=None, branch=True, source_pkgs=["ioas.soft.iommufd"], messages=False)
    if coverage:
        measured.start()  # before what is measured is imported
    from tests.fuzz.campaign import Campaign

    campaign = Campaign(seed, click.echo)
    if sequence is None:
        campaign.run(calls)
    else:
        campaign.play(sequence)
    if coverage:
        measured.stop()
        for line in _lines(measured, missing):
            click.echo(line)
    click.echo(f"{campaign.calls} calls in {campaign.sequences} sequences from seed {seed}")
    if campaign.kinds:
        raise click.ClickException(f"{campaign.kinds.total()} sequences went wrong")
    click.echo("no exception but KernelError, and nothing left at the end of any sequence")


def _lines(measured: Coverage, missing: bool) -> Iterator[str]:
    """Branches and statements reached, file by file."""
    with tempfile.TemporaryDirectory() as place:
        file = Path(place, "coverage.json")
        measured.json_report(outfile=str(file))
        report = json.loads(file.read_text())
    for name, found in sorted(report["files"].items()):
        yield f"{Path(name).name:20} {_counts(found['summary'])}"
        if missing:
            yield f"    lines {found['missing_lines']}, branches {found['missing_branches']}"
    yield f"{'ioas.soft.iommufd':20} {_counts(report['totals'])}"


def _counts(summary: dict[str, int]) -> str:
    branches = f"{summary['covered_branches']:4} of {summary['num_branches']:4} branches"
    return f"{branches}, {summary['covered_lines']:4} of {summary['num_statements']:4} statements"


if __name__ == "__main__":
    main()

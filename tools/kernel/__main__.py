"""``python -m tools.kernel``: fetch the kernel's headers and tests, build them, run them under ``ioas run``."""

from __future__ import annotations

import sys
from collections import Counter

import click
from rich.console import Console
from rich.table import Table

from ioas.errors import EnvironmentRefusal
from tools.kernel import conformance, expectations, selftests, source
from tools.kernel.conformance import Verdict
from tools.kernel.tap import Outcome

SUITES = expectations.load()


@click.group()
def main() -> None:
    """Linux 7.3 as a reference."""


@main.command()
def fetch() -> None:
    """Fetch the headers and the selftests' sources into the cache."""
    here = source.fetch()
    click.echo(f"Linux {here.version}: sources in {here.tree}, headers in {here.headers}")


@main.command()
@click.argument("names", nargs=-1, type=click.Choice(list(selftests.PROGRAMS)))
def build(names: tuple[str, ...]) -> None:
    """Build the test programs NAMES (by default all), and print where they are."""
    here = source.fetch()
    for name in names or selftests.PROGRAMS:
        click.echo(selftests.build(here, name))


@main.command("conformance")
@click.argument("names", nargs=-1, type=click.Choice(list(SUITES)))
def run(names: tuple[str, ...]) -> None:
    """Run the suites NAMES (by default all); exit with 1 on any difference from expected.toml."""
    here = source.fetch()
    verdicts = []
    for suite in (SUITES[name] for name in names or SUITES):
        program = selftests.build(here, suite.program)
        verdicts.append(conformance.run(suite, program))
    _show(verdicts, here.version)
    sys.exit(any(verdict.deviations() for verdict in verdicts))


def _show(verdicts: list[Verdict], version: str) -> None:
    console = Console(soft_wrap=True, highlight=False, width=100)
    table = Table("fixture", "tests", "ours", f"Linux {version}", "seconds")
    for verdict in verdicts:
        seconds = f"{verdict.seconds:.1f}"
        for fixture, (ours, kernel) in verdict.fixtures().items():
            table.add_row(fixture, str(ours.total()), _counts(ours), _counts(kernel), seconds)
            seconds = ""
    console.print(table)
    for verdict in verdicts:
        _show_differences(console, verdict)


def _counts(outcomes: Counter[Outcome]) -> str:
    return ", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items(), reverse=True))


def _show_differences(console: Console, verdict: Verdict) -> None:
    """The tests that do not pass, with the reason that expected.toml gives, and then what was not expected."""
    total = Counter(result.outcome for result in verdict.report.results)
    needs = f"; missing here: {', '.join(sorted(verdict.missing))}" if verdict.missing else ""
    console.print(f"\n{verdict.suite.name}: {total['pass']} of {verdict.suite.tests} pass{needs}")
    for result in verdict.report.results:
        entry = verdict.suite.difference(result.name, verdict.missing)
        if entry and entry.ours == result.outcome:
            console.print(f"  {result.outcome} (as expected) {result.name}: {entry.reason}")
    for line in verdict.deviations():
        console.print(f"  UNEXPECTED {line}", markup=False)


if __name__ == "__main__":
    try:
        main()
    except (EnvironmentRefusal, OSError) as error:
        sys.exit(f"tools.kernel: {error}")

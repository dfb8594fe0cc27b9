"""``python -m tools.kernel``: fetch the kernel's headers and tests, build them, run them under ``ioas run``."""

from __future__ import annotations

import sys
from collections import Counter

import click
from rich.console import Console
from rich.table import Table

from ioas.errors import EnvironmentRefusal
from tools.kernel import conformance, expectations, page, points, selftests, source
from tools.kernel.conformance import Verdict
from tools.kernel.tap import Outcome, parse

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
@click.option("--write", is_flag=True, help="Put what is printed into docs/conformance.md.")
@click.argument("names", nargs=-1, type=click.Choice(list(SUITES)))
def run(names: tuple[str, ...], write: bool) -> None:
    """Run the suites NAMES (by default all); exit with 1 on any difference from expected.toml."""
    if write and names:
        raise click.UsageError("the page shows all suites")
    here = source.fetch()
    verdicts = []
    for suite in (SUITES[name] for name in names or SUITES):
        program = selftests.build(here, suite.program)
        verdicts.append(conformance.run(suite, program))
    text = _show(verdicts, here.version)
    if write:
        page.write(text)
    sys.exit(any(verdict.deviations() for verdict in verdicts))


@main.command("kernel-points")
def kernel_points() -> None:
    """Run iommufd_fail_nth in the reference guest, and print how many allocations failed, for expected.toml."""
    program = selftests.build(source.fetch(), "iommufd_fail_nth")
    command = [sys.executable, "-m", "tools.reference", "run", "--", *points.preloaded(program)]
    for result in parse(conformance.output_of(command)).results:
        found = points.of_test(result)
        ledgers = ", ".join(f"VmPin {pinned} kB, VmLck {locked} kB" for pinned, locked in sorted(found.ledgers))
        click.echo(f'"{result.name}" = {found.hit}  # {result.outcome}; {ledgers}')


def _show(verdicts: list[Verdict], version: str) -> str:
    """Print what came of it; return what was printed."""
    console = Console(soft_wrap=True, highlight=False, width=100, record=True)
    table = Table("fixture", "tests", "ours", f"Linux {version}", "seconds")
    for verdict in verdicts:
        seconds = f"{verdict.seconds:.1f}"
        for fixture, (ours, kernel) in verdict.fixtures().items():
            table.add_row(fixture, str(ours.total()), _counts(ours), _counts(kernel), seconds)
            seconds = ""
    console.print(table)
    for verdict in verdicts:
        _show_differences(console, verdict)
        _show_points(console, verdict, version)
    return console.export_text()


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


def _show_points(console: Console, verdict: Verdict, version: str) -> None:
    """How many allocations each test let fail."""
    swept = verdict.points()
    if not swept:
        return
    console.print("  allocations that failed, one at a time, with VmPin and VmLck the same each time:")
    table = Table("test", "ours", f"Linux {version}")
    for name, found in swept.items():
        table.add_row(name, str(found.hit), str(verdict.suite.points.get(name, "?")))
    console.print(table)


if __name__ == "__main__":
    try:
        main()
    except (EnvironmentRefusal, OSError) as error:
        sys.exit(f"tools.kernel: {error}")

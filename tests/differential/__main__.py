"""``python -m tests.differential``: random calls on the real kernel and on the software host, every answer compared."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack

import click

from tests.differential import hosts, scripts
from tests.differential.arguments import Script
from tests.differential.compare import Difference, Reducer, differences
from tests.differential.found import RECORDED, Found
from tests.differential.hosts import ROOT, Answers, Host, HostError
from tests.differential.report import Reached, refusals

_BATCH = 60
_RECORDED = 3
"""Scripts of each kind that are written down."""
_ROUNDS = 1 << 12
"""Batches that a seed stands for, at most."""
KEPT = ROOT / "build" / "differential"


class Campaign:
    """One run: three hosts, and what was found."""

    def __init__(self, linux: Host, supervised: Host, in_process: Host) -> None:
        self.linux = linux
        self.in_process = in_process
        self._ours = ((supervised, hosts.runs_supervised), (in_process, hosts.runs_in_process))
        self.reached = Reached()
        self.calls: Counter[str] = Counter()
        self.found: dict[tuple[str, ...], Difference] = {}

    def carry_out(self, batch: Sequence[Script]) -> None:
        """Run a batch everywhere, and reduce what differs in a way that is new."""
        self.linux.ask(batch)
        for host, takes in self._ours:
            host.ask([script for script in batch if takes(script)])
        ours = [host.answers() for host, _ in self._ours]
        linux = self._answers_of_linux(batch)
        self.reached.add(batch, linux)
        self.calls[self.linux.name] += sum(map(scripts.calls, batch))
        for (host, takes), answers in zip(self._ours, ours, strict=True):
            asked = [(script, lines) for script, lines in zip(batch, linux, strict=True) if takes(script)]
            part, expected = [script for script, _ in asked], [lines for _, lines in asked]
            self.calls[host.name] += sum(map(scripts.calls, part))
            self._compare(host, part, answers, expected)

    def _answers_of_linux(self, batch: Sequence[Script]) -> Answers:
        """Linux's answers to the batch asked last; from another guest when this one has died, but not from a third."""
        try:
            return self.linux.answers()
        except HostError as error:
            click.echo(f"{error}\nanother guest is asked the same", err=True)
            self.linux.restart()
            return self.linux.run(batch)

    def _compare(self, host: Host, batch: Sequence[Script], ours: Answers, linux: Answers) -> None:
        for difference in differences(batch, ours, linux):
            key = (host.name, *difference.signature)
            if key not in self.found:
                self.found[key] = Reducer(host, self.linux).reduce(difference)
                self._show(host, self.found[key])

    def _show(self, host: Host, difference: Difference) -> None:
        click.echo(f"\n{host.name} answers {difference.command} otherwise than Linux:")
        for step in difference.script["steps"]:
            click.echo(f"  {json.dumps(step)}")
        click.echo(f"  {host.name}: {difference.ours}\n  Linux: {difference.linux}")
        found = Found("", difference.script, self.linux.run([difference.script])[0])
        click.echo(f"  kept in {found.write(KEPT, '-'.join(difference.signature).strip('-'))}\n")


@click.command()
@click.option("--calls", default=10_000, show_default=True, help="How many calls, at least.")
@click.option("--seed", default=1, show_default=True, help="The same seed makes the same calls.")
@click.option(
    "--variant", type=click.Choice(tuple(scripts.VARIANTS)), default="iommu", show_default=True, help="Of the guest."
)
@click.option(
    "--kind", "kinds", multiple=True, type=click.Choice(tuple(scripts.KINDS)), help="Repeatable; default: all."
)
@click.option("--record", is_flag=True, help="Write some scripts with Linux's answers anew, and do nothing else.")
@click.option("--unreached", is_flag=True, help="Name the refusals that never happened as well.")
def main(calls: int, seed: int, variant: str, kinds: tuple[str, ...], record: bool, unreached: bool) -> None:
    """Make random calls on Linux in the reference guest and on the software host, and compare every answer.

    Differences are reduced to the shortest script that shows them, printed, and kept in build/differential.
    """
    if record:
        with hosts.real_kernel(variant) as linux:
            _record(linux, variant, kinds or scripts.VARIANTS[variant])
        return
    with ExitStack() as stack:
        makers = (hosts.real_kernel, hosts.supervised, hosts.in_process)
        campaign = Campaign(*(stack.enter_context(make(variant)) for make in makers))
        try:
            _run(campaign, calls, lambda number: scripts.generate(seed * _ROUNDS + number, _BATCH, variant, kinds))
        except HostError as error:
            raise click.ClickException(str(error)) from error
        for line in (*campaign.reached.lines(), *refusals(campaign.in_process.sites(), every=unreached)):
            click.echo(line)
    if campaign.found:
        raise click.ClickException(f"{len(campaign.found)} differences")
    click.echo("no difference")


def _record(linux: Host, variant: str, kinds: Sequence[str]) -> None:
    for kind in kinds:
        few = scripts.generate(0, _RECORDED, variant, [kind])
        for number, (script, answers) in enumerate(zip(few, linux.run(few), strict=True), 1):
            click.echo(Found("", script, answers).write(RECORDED, _name(kind, variant, number)))


def _name(kind: str, variant: str, number: int) -> str:
    return f"{kind}-{number}" if variant == "iommu" else f"{kind}-{variant}-{number}"


def _run(campaign: Campaign, calls: int, batch_of: Callable[[int], list[Script]]) -> None:
    number = 0
    while campaign.calls[campaign.linux.name] < calls:
        batch = batch_of(number)
        try:
            campaign.carry_out(batch)
        except HostError:
            KEPT.mkdir(parents=True, exist_ok=True)
            (KEPT / "failed.json").write_text(json.dumps(batch))
            click.echo(f"the batch that was being carried out is in {KEPT / 'failed.json'}", err=True)
            raise
        number += 1
        click.echo(", ".join(f"{name}: {count} calls" for name, count in campaign.calls.items()), err=True)


if __name__ == "__main__":
    main()

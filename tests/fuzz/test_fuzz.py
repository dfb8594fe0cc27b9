"""Random calls on the dispatcher: every exception is a KernelError, and nothing is left of a sequence at its end."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from ioas.soft.iommufd import nested, pages
from tests.fuzz.campaign import Campaign
from tests.fuzz.sequences import Wrong, play, play_from, shorten

CALLS = 15_000


def test_many_random_calls_end_as_they_should() -> None:
    said: list[str] = []
    campaign = Campaign(20, said.append)
    campaign.run(CALLS)
    assert not campaign.kinds, "\n".join(said)
    assert campaign.calls >= CALLS


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(random=st.randoms(use_true_random=False), length=st.integers(1, 25))
def test_few_random_calls_end_as_they_should(random: Random, length: int) -> None:
    assert play_from(lambda index: random, range(length)).wrong is None


def test_the_same_seed_makes_the_same_calls() -> None:
    assert play(7, 1) == play(7, 1)
    assert play(7, 1).calls != play(7, 2).calls


def test_an_exception_of_another_kind_is_found_and_shortened(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(nested, "_invalidate", broken)
    number, wrong = _first_wrong()
    assert wrong.kind.startswith("ZeroDivisionError at test_fuzz.py")
    assert len(shorten(3, number, wrong)) == 1


def test_a_page_that_stays_pinned_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    release = pages.Pages.release

    def forgetful(self: pages.Pages, first: int, last: int, *, charged: bool = True) -> None:
        release(self, first, last - (last - first > 2), charged=charged)

    monkeypatch.setattr(pages.Pages, "release", forgetful)
    number, wrong = _first_wrong()
    assert "frames" in wrong.kind
    assert len(shorten(3, number, wrong)) <= 4


def _first_wrong() -> tuple[int, Wrong]:
    found = ((number, play(3, number).wrong) for number in range(100))
    return next((number, wrong) for number, wrong in found if wrong is not None)

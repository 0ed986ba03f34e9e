"""Waits grow, stay within their bounds, and differ from one waiter to the next."""

from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from bridge.delivery.backoff import Backoff


@given(attempts=st.integers(min_value=0, max_value=10_000), seed=st.integers())
def test_a_wait_lies_between_half_and_all_of_the_doubled_first_wait(
    attempts: int, seed: int
) -> None:
    backoff = Backoff(first_s=2.0, most_s=300.0)
    full_s = min(2.0 * 2 ** min(attempts, 20), 300.0)
    assert full_s / 2 <= backoff.delay_s(attempts, Random(seed)) <= full_s


def test_two_waiters_do_not_come_back_at_the_same_time() -> None:
    random = Random(1)
    assert Backoff().delay_s(5, random) != Backoff().delay_s(5, random)

"""Token buckets: what is within them passes, what is over them waits, and nobody grows them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.errors import Unavailable
from bridge.policy.limits import Buckets, Limits, Rate

costs = st.lists(st.tuples(st.floats(0, 5), st.integers(1, 30)), max_size=60)


@given(costs)
def test_never_more_passes_than_burst_and_rate_allow(steps: list[tuple[float, int]]) -> None:
    buckets, now_s, passed = Buckets(Rate(per_s=10, burst=30)), 0.0, 0
    for pause_s, cost in steps:
        now_s += pause_s
        if not buckets.wait_s("a", now_s, cost):
            buckets.take("a", now_s, cost)
            passed += cost
        assert passed <= 30 + 10 * now_s + 1e-6


@given(costs)
def test_after_the_wait_it_passes(steps: list[tuple[float, int]]) -> None:
    buckets, now_s = Buckets(Rate(per_s=10, burst=30)), 0.0
    for pause_s, cost in steps:
        now_s += pause_s
        now_s += buckets.wait_s("a", now_s, cost) + 1e-6
        assert buckets.wait_s("a", now_s, cost) == 0
        buckets.take("a", now_s, cost)


def test_what_is_more_than_a_bucket_passes_with_a_full_one_and_is_made_up_for() -> None:
    buckets = Buckets(Rate(per_s=1, burst=10))
    assert buckets.wait_s("a", 0, 50) == 0
    buckets.take("a", 0, 50)
    assert buckets.wait_s("a", 0) == 41


def test_the_longest_unused_is_forgotten() -> None:
    buckets = Buckets(Rate(per_s=1, burst=1), most=2)
    for key in ("a", "b", "c"):
        buckets.take(key, 0)
    assert [buckets.wait_s(key, 0) for key in ("a", "b", "c")] == [0, 1, 1]


def test_a_clock_set_back_gives_nothing() -> None:
    buckets = Buckets(Rate(per_s=1, burst=1))
    buckets.take("a", 100)
    assert buckets.wait_s("a", 50) == 1


def test_a_transaction_over_one_limit_takes_from_none() -> None:
    limits = Limits(
        server_events=Buckets(Rate(per_s=1, burst=10)),
        room_events=Buckets(Rate(per_s=1, burst=3)),
    )
    limits.check_events("s", {"r": 3}, 0)
    with pytest.raises(Unavailable, match="too many events in r") as caught:
        limits.check_events("s", {"q": 2, "r": 2}, 0)
    assert (caught.value.errcode, caught.value.retry_after_s) == ("M_LIMIT_EXCEEDED", 2)
    limits.check_events("s", {"q": 3}, 0)
    with pytest.raises(Unavailable, match="too many events of s"):
        limits.check_events("s", {"p": 5}, 0)


def test_without_settings_there_is_no_limit() -> None:
    limits = Limits()
    for _ in range(3):
        limits.check_request("s", 0)
        limits.check_events("s", {"r": 1_000_000}, 0)

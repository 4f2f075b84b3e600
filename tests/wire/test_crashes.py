"""A short crash test; tests/wire/crashes.py has the long one."""

import random

import pytest

from tests.wire import crashes
from tests.wire.redis_server import skip_without_redis


@pytest.mark.parametrize("store", ["rocksdb", "redis"])
def test_nothing_is_lost_doubled_or_different_wherever_the_server_dies(store):
    if store == "redis":
        skip_without_redis()
    assert len(crashes.fault_points(store)) >= 40
    seed = random.randrange(1 << 32)
    outcomes, seconds = crashes.crash(24, seed, parallel=2, store=store)
    print(crashes.summary(outcomes, seed, seconds))
    assert not [outcome.difference for outcome in outcomes if outcome.difference]
    # A point that nobody comes to tests nothing.
    assert not [outcome.plan.point for outcome in outcomes if outcome.plan.point and not outcome.reached]

"""The generator of multi-query associative recall keeps the task's rules."""

import pathlib
import random as standard
import sys

import numpy as np
import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import mqar  # noqa: E402


def test_examples_keep_the_rules_of_the_task():
    seed = standard.randrange(1 << 32)
    print("seed", seed)
    random = np.random.default_rng(seed)
    length, pairs, vocab = 96, 12, 64
    first = 0
    for _ in range(200):
        tokens, labels = mqar.examples(random, 10, length, pairs, vocab)
        assert tokens.shape == labels.shape == (10, length)
        for row, asked in zip(tokens, labels):
            held = dict(zip(row[: 2 * pairs : 2], row[1 : 2 * pairs : 2]))
            assert len(held) == pairs == len(set(held.values()))
            assert all(1 <= key < vocab // 2 <= value < vocab for key, value in held.items())
            places = np.flatnonzero(asked != mqar.IGNORED)
            assert len(places) == pairs and places.min() >= 2 * pairs and not places.any(where=places % 2 == 1)
            assert {row[place]: asked[place] for place in places} == held
            rest = np.setdiff1d(np.arange(2 * pairs, length), places)
            assert not row[rest].any()
            first += asked[2 * pairs] == held[row[0]]
    # The first key is drawn first: its place is the first of 36 with p = 1 / sum of (x + 1)^-0.99.
    p = 1 / (np.arange(1, 37) ** -0.99).sum()
    assert abs(first - 2000 * p) < 5 * np.sqrt(2000 * p * (1 - p))


def test_more_pairs_than_fit_are_refused():
    with pytest.raises(ValueError, match="pairs: given 25, expected at most 24"):
        mqar.examples(np.random.default_rng(0), 1, 96, 25, 64)

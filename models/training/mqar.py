"""Multi-query associative recall: pairs of a key and its value, then keys in another order whose values are asked for.

The task of "Zoology: Measuring and Improving Recall in Efficient Language Models" (2023), without random tokens between
the queries (as in its figure 2). NumPy alone: training, tests and the example draw from the same generator.
"""

import numpy as np

IGNORED = -100


def examples(random, count, length, pairs, vocab, power=0.01):
    """tokens and labels [count,length], int64. A label stands at the position of its query, all others are IGNORED.

    Keys are distinct and in [1, vocab/2), values distinct and in [vocab/2, vocab); 0 is everywhere else. A query's
    place x behind the context, in steps of two, has the probability ~ (x + 1)^(power - 1).
    """
    half, context = vocab // 2, 2 * pairs
    if pairs > min(half - 1, vocab - half) or 2 * context > length:
        raise ValueError(f"pairs: given {pairs}, expected at most {min(half - 1, vocab - half, length // 4)}")
    # The first n of a random order are n distinct ones.
    keys = 1 + random.random((count, half - 1)).argsort(1)[:, :pairs]
    values = half + random.random((count, vocab - half)).argsort(1)[:, :pairs]
    # The largest of log p + Gumbel noise are draws without replacement, in order.
    weight = (power - 1) * np.log(np.arange(1, (length - context) // 2 + 1))
    places = context + 2 * (-weight - random.gumbel(size=(count, weight.size))).argsort(1)[:, :pairs]
    tokens = np.zeros((count, length), np.int64)
    labels = np.full((count, length), IGNORED, np.int64)
    tokens[:, 0:context:2], tokens[:, 1:context:2] = keys, values
    np.put_along_axis(tokens, places, keys, 1)
    np.put_along_axis(labels, places, values, 1)
    return tokens, labels

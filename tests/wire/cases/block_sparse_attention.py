import numpy as np

from tests.wire.draw import case, packed, qkv


def lists(d, rows, heads, blocks, slots, count):
    """Block numbers below `count` (of every row), none twice, with empty slots."""
    indices = np.full((rows, heads, blocks, slots), -1, np.int32)
    for place in np.ndindex(rows, heads, blocks):
        limit = count if np.isscalar(count) else count[place[0]]
        chosen = d.rng.permutation(limit)[: d.rng.integers(0, slots + 1)]
        indices[place][: len(chosen)] = chosen
    return indices


@case
def block_sparse_attention__lists(d):
    inputs = qkv(d, T=37, S=50, HV=2)
    return inputs | {"block_indices": lists(d, 2, 2, 5, 4, 4)}, {
        "block_size_q": 8, "block_size_k": 13, "return_lse": True,
    }


@case
def block_sparse_attention__counts(d):
    indices = np.stack([d.rng.permutation(4) for _ in range(5)]).reshape(1, 1, 5, 4).astype(np.int64)
    counts = d.rng.integers(0, 5, (1, 1, 5))
    return qkv(d, T=37, S=50, HV=2) | {"block_indices": indices, "block_counts": counts}, {
        "block_size_q": 8, "block_size_k": 13,
    }


@case
def block_sparse_attention__mask_sink_window(d):
    return qkv(d, T=37, S=50, HV=2) | {"block_mask": d.mask(2, 4, 5, 4, share=0.3)}, {
        "block_size_q": 8, "block_size_k": 13, "causal": True, "sink": 2, "window": 5, "scale": 0.4,
        "return_lse": True,
    }


@case
def block_sparse_attention__packed(d):
    # Sequences of 9, 0, 21 and 7 tokens: at most 3 query blocks of 8 and 6 key blocks of 4.
    return qkv(d, B=1, HV=2) | {"cu_seqlens": packed(), "block_mask": d.mask(4, 1, 3, 6, share=0.4)}, {
        "block_size_q": 8, "block_size_k": 4, "causal": True, "window": 2,
    }


@case
def block_sparse_attention__default_blocks(d):
    return qkv(d, T=100, S=150, HV=2) | {"block_indices": lists(d, 1, 1, 2, 2, 3)}, {"causal": True}

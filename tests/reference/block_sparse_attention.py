import numpy as np

from tests.reference.common import sequences, softmax_over


def block_sparse_attention(q, k, v, block_indices=None, block_counts=None, block_mask=None, cu_seqlens=None, *,
                           block_size_q=64, block_size_k=64, causal=False, sink=0, window=0, scale=None,
                           return_lse=False):
    """Every query block reads the key blocks of its list; under `causal` also the first `sink` keys and the `window`
    nearest ones, and nothing after itself."""
    batch, tokens, heads, key = q.shape
    scale = key**-0.5 if scale is None else scale
    lists = block_mask if block_indices is None else block_indices
    list_heads = lists.shape[1]

    def listed(row, head, block):
        """Key blocks of a query block."""
        if block_mask is not None:
            return set(np.flatnonzero(block_mask[row, head, block]))
        entries = block_indices[row, head, block]
        if block_counts is not None:
            entries = entries[: int(block_counts[row, head, block])]
        return {int(entry) for entry in entries if entry >= 0}

    o = np.zeros((batch, tokens, heads, v.shape[-1]))
    lse = np.zeros((batch, tokens, heads))
    for m, b, steps in sequences(batch, tokens, cu_seqlens):
        begin, count = steps.start, len(steps)
        first_key, keys = (begin, count) if cu_seqlens is not None else (0, k.shape[1])
        row = m if lists.shape[0] > 1 else 0
        j = np.arange(keys)
        for i in range(count):
            position = i + keys - count
            for h in range(heads):
                blocks = listed(row, h // (heads // list_heads), i // block_size_q)
                allowed = np.isin(j // block_size_k, list(blocks))
                if causal:
                    allowed |= (j < sink) | (position - j < window)
                    allowed &= j <= position
                group = h // (heads // k.shape[2])
                row_k = k[b, first_key : first_key + keys, group]
                row_v = v[b, first_key : first_key + keys, group]
                o[b, begin + i, h], lse[b, begin + i, h] = softmax_over(
                    scale * row_k @ q[b, begin + i, h], allowed, row_v
                )
    return {"o": o} | ({"lse": lse} if return_lse else {})

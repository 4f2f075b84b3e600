import numpy as np

from tests.reference.common import softmax_over, widen


def masked_attention(q, k, v, cu_seqlens=None, startend_row_indices=None, q_ranges=None, k_ranges=None,
                     slice_types=None, *, pattern, window_left=-1, window_right=-1, prefix_length=None,
                     block_size=None, global_size=None, causal=False, scale=None, return_lse=False):
    """Pair by pair, as the page's tables say."""
    batch, tokens, heads, size = q.shape
    keys = k.shape[1]
    scale = size**-0.5 if scale is None else scale
    k, v = widen(k, heads), widen(v, heads)
    global_size = 2 * window_left if global_size is None else global_size
    cu = None if cu_seqlens is None else [int(x) for x in cu_seqlens]

    def document(x):
        return next(m for m in range(len(cu) - 1) if cu[m] <= x < cu[m + 1])

    def near(p, j):
        return (window_left < 0 or p - j <= window_left) and (window_right < 0 or j - p <= window_right)

    def column(b, h, i, j):
        lists = startend_row_indices
        row = lists[b if len(lists) > 1 else 0, h // (heads // lists.shape[1]), j]
        r = [int(x) for x in row]
        if causal and i < j:
            return False
        if len(r) == 1:
            return not i >= r[0]
        if len(r) == 2:
            return not (r[0] <= i < r[1] if causal else (i >= r[0] or i < r[1]))
        return not (r[0] <= i < r[1] or r[2] <= i < r[3])

    def in_slice(i, j):
        for (qs, qe), (ks, ke), kind in zip(q_ranges, k_ranges, slice_types):
            if not (qs <= i < qe and ks <= j < ke):
                continue
            x, y, n, c = i - qs, j - ks, qe - qs, ke - ks
            if (kind in (0, 2) or y - x <= c - n) and (kind in (0, 1) or y >= x):
                return True
        return False

    def same(i, j):
        return document(i) == document(j)

    rules = {
        "full": lambda i, j: True,
        "causal": lambda i, j: j <= i + keys - tokens,
        "sliding_window": lambda i, j: near(i + keys - tokens, j),
        "sliding_window_causal": lambda i, j: j <= i + keys - tokens
        and (window_left < 0 or i + keys - tokens - j <= window_left),
        "full_document": same,
        "causal_document": lambda i, j: same(i, j) and j <= i,
        "share_question": lambda i, j: (same(i, j) and j <= i) or (document(j) == 0 and document(i) != 0),
        "causal_blockwise": lambda i, j: (same(i, j) and j <= i)
        or (document(i) == len(cu) - 2 and document(j) != len(cu) - 2),
        "prefix_lm_causal": lambda i, j: j <= i or j < prefix_length,
        "prefix_lm_document": lambda i, j: same(i, j) and (j <= i or j - cu[document(j)] < prefix_length),
        "global_sliding_window": lambda i, j: near(i, j) or i < global_size or j < global_size,
        "block_causal_document": lambda i, j: same(i, j) and j < (i // block_size + 1) * block_size,
        "slices": in_slice,
    }
    o, lse = np.zeros((batch, tokens, heads, v.shape[-1])), np.zeros((batch, tokens, heads))
    for i in range(tokens):
        shown = None if pattern == "columns" else np.array([rules[pattern](i, j) for j in range(keys)], bool)
        for b in range(batch):
            for h in range(heads):
                allowed = np.array([column(b, h, i, j) for j in range(keys)], bool) if shown is None else shown
                o[b, i, h], lse[b, i, h] = softmax_over(scale * k[b, :, h] @ q[b, i, h], allowed, v[b, :, h])
    return {"o": o, "lse": lse} if return_lse else {"o": o}

import numpy as np

from tests.reference.common import sequences, softmax_over, widen


def sliding_window_attention(q, k, v, cu_seqlens=None, *, window, window_right=0, sink=0, scale=None, return_lse=False):
    """allowed(i,j) = -window_right <= p(i) - j < window or (j < sink and j <= p(i) + window_right), p(i) = i + S - T."""
    batch, tokens, heads, size = q.shape
    scale = size**-0.5 if scale is None else scale
    k, v = widen(k, heads), widen(v, heads)
    o, lse = np.zeros((batch, tokens, heads, v.shape[-1])), np.zeros((batch, tokens, heads))
    for _, b, steps in sequences(batch, tokens, cu_seqlens):
        keys = np.array(steps) if cu_seqlens is not None else np.arange(k.shape[1])
        j = np.arange(len(keys))
        for i, t in enumerate(steps):
            p = i + len(keys) - len(steps)
            allowed = (-window_right <= p - j) & (p - j < window) | (j < sink) & (j <= p + window_right)
            for h in range(heads):
                scores = scale * k[b, keys, h] @ q[b, t, h]
                o[b, t, h], lse[b, t, h] = softmax_over(scores, allowed, v[b, keys, h])
    return {"o": o, "lse": lse} if return_lse else {"o": o}

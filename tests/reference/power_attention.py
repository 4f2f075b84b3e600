import numpy as np

from tests.reference.common import sequences, softmax_over, widen


def power_attention(q, k, v, cu_seqlens=None, *, block_size=256, window_blocks=5, sink_blocks=1, scale=None,
                    return_lse=False):
    """allowed(i,j) = j <= p and (d < window_blocks or d is 0 or a power of two or w < sink_blocks), d = u - w,
    u = p // block_size, w = j // block_size, p = i + S - T."""
    batch, tokens, heads, size = q.shape
    scale = size**-0.5 if scale is None else scale
    k, v = widen(k, heads), widen(v, heads)
    powers = {0} | {1 << n for n in range(40)}
    o, lse = np.zeros((batch, tokens, heads, v.shape[-1])), np.zeros((batch, tokens, heads))
    for _, b, steps in sequences(batch, tokens, cu_seqlens):
        keys = np.array(steps, int) if cu_seqlens is not None else np.arange(k.shape[1])
        for i, t in enumerate(steps):
            p = i + len(keys) - len(steps)

            def reads(j):
                d = p // block_size - j // block_size
                return j <= p and (d < window_blocks or d in powers or j // block_size < sink_blocks)

            allowed = np.array([reads(j) for j in range(len(keys))], bool)
            for h in range(heads):
                o[b, t, h], lse[b, t, h] = softmax_over(scale * k[b, keys, h] @ q[b, t, h], allowed, v[b, keys, h])
    return {"o": o, "lse": lse} if return_lse else {"o": o}

import numpy as np

from tests.reference.common import initial, most_heads, sequences, softmax_over, widen
from tests.reference.norm_attention import normalised


def diag_attention(q, k, v, norm_weight=None, norm_bias=None, norm_gate=None, initial_state_k=None,
                   initial_state_v=None, initial_state_pos=None, cu_seqlens=None, *, block_size=64,
                   activation="softmax", causal=True, scale=None, norm="none", norm_scope="model", eps=None):
    """Every token reads the keys of its own block of positions, all of it or up to itself."""
    batch, tokens, _, key = q.shape
    heads, value = most_heads(q, k, v), v.shape[-1]
    scale = key**-0.5 if scale is None else scale
    q, k, v = (widen(x, heads) for x in (q, k, v))
    pieces = sequences(batch, tokens, cu_seqlens)
    open_k = initial(initial_state_k, len(pieces), block_size, heads, key)
    open_v = initial(initial_state_v, len(pieces), block_size, heads, value)
    seen = np.zeros(len(pieces), np.int64) if initial_state_pos is None else np.array(initial_state_pos)
    o = np.zeros((batch, tokens, heads, value))
    for m, b, steps in pieces:
        before = int(seen[m] % block_size)
        keys = np.concatenate([open_k[m, :before], k[b, steps]])
        values = np.concatenate([open_v[m, :before], v[b, steps]])
        places = np.arange(len(keys))
        for i, t in enumerate(steps):
            place = before + i
            allowed = places // block_size == place // block_size
            if causal:
                allowed &= places <= place
            for h in range(heads):
                scores = scale * keys[:, h] @ q[b, t, h]
                if activation == "softmax":
                    o[b, t, h], _ = softmax_over(scores, allowed, values[:, h])
                else:
                    weights = np.maximum(scores[allowed], 0.0) ** (2 if activation == "relu2" else 1)
                    o[b, t, h] = weights @ values[allowed, h]
            o[b, t] = normalised(o[b, t], norm, norm_scope, eps, norm_weight, norm_bias, norm_gate)
        if len(steps):
            left = len(keys) % block_size
            for state, all_rows in ((open_k, keys), (open_v, values)):
                state[m] = 0
                state[m, :left] = all_rows[len(all_rows) - left:]
        seen[m] += len(steps)
    finals = {"final_state_k": open_k, "final_state_v": open_v, "final_state_pos": seen}
    return {"o": o} | (finals if causal else {})

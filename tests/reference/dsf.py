import numpy as np

from tests.reference.common import initial, most_heads, sequences, widen


def dsf(q, k, v, g=None, dt=None, a=None, eta=None, d=None, initial_state=None, cu_seqlens=None, *, scale=1.0):
    """S[i,j] = exp(G[i,j]) S[i,j] + k[i] w[j];  o[j] = scale sum_i q[i] S[i,j] / eta + d[j] v[j]."""
    batch, tokens, _, key = q.shape
    heads, value = most_heads(q, k, v), v.shape[-1]
    q, k, v = (widen(x, heads) for x in (q, k, v))
    w, G = v, np.zeros((batch, tokens, heads, 1, 1))
    if dt is not None:
        dt = widen(dt.reshape(*dt.shape[:3], -1), heads)
        G, w = dt[:, :, :, None, :] * widen(a, heads, 0), dt * v
    elif g is not None:
        g = widen(g, heads)
        G = g.reshape(*g.shape, *([1] * (5 - g.ndim)))
    divisor = np.ones((batch, tokens, heads)) if eta is None else widen(eta, heads)
    skip = np.zeros((heads, 1)) if d is None else widen(d.reshape(d.shape[0], -1), heads, 0)
    pieces = sequences(batch, tokens, cu_seqlens)
    S = initial(initial_state, len(pieces), heads, key, value)
    o = np.zeros(v.shape)
    for m, b, steps in pieces:
        for t in steps:
            for h in range(heads):
                S[m, h] = np.exp(G[b, t, h]) * S[m, h] + np.outer(k[b, t, h], w[b, t, h])
                o[b, t, h] = scale * q[b, t, h] @ S[m, h] / divisor[b, t, h] + skip[h] * v[b, t, h]
    return {"o": o, "final_state": S}

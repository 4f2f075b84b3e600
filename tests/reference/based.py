import numpy as np

from tests.reference.common import initial, most_heads, sequences, widen


def features(x, scale):
    """[1, sqrt(scale) x_i, scale x_i x_j / sqrt 2] of one row."""
    return np.concatenate([[1.0], np.sqrt(scale) * x, scale * np.outer(x, x).ravel() / np.sqrt(2.0)])


def based(q, k, v, initial_state=None, initial_state_z=None, cu_seqlens=None, *, scale=None, eps=1e-12,
          normalize=True, causal=True):
    """S = S + phi(k) v^T, z = z + phi(k), o = phi(q)^T S / (phi(q).z + eps), over earlier tokens or over all."""
    batch, tokens, _, key = q.shape
    heads, value = most_heads(q, k, v), v.shape[-1]
    q, k, v = (widen(x, heads) for x in (q, k, v))
    scale = key**-0.5 if scale is None else scale
    size = 1 + key + key**2
    pieces = sequences(batch, tokens, cu_seqlens)
    state = initial(initial_state, len(pieces), heads, size, value)
    z = initial(initial_state_z, len(pieces), heads, size)
    o = np.zeros((batch, tokens, heads, value))
    for m, b, steps in pieces:
        for h in range(heads):
            def write(t):
                phi = features(k[b, t, h], scale)
                state[m, h] += np.outer(phi, v[b, t, h])
                z[m, h] += phi

            if not causal:
                for t in steps:
                    write(t)
            for t in steps:
                if causal:
                    write(t)
                phi = features(q[b, t, h], scale)
                o[b, t, h] = phi @ state[m, h] / (phi @ z[m, h] + eps if normalize else 1.0)
    return {"o": o} | ({"final_state": state, "final_state_z": z} if causal else {})

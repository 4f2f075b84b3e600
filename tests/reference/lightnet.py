import numpy as np

from tests.reference.common import initial, sequences, silu
from tests.reference.lrpe import encode, lrpe_angles


def lightnet(q, k, v, theta=None, initial_state=None, initial_state_z=None, initial_state_pos=None, cu_seqlens=None, *,
             causal=True, q_silu=True, scale=None, lrpe="none", base=10000.0, height=None, width=None, depth=None):
    """Every key channel keeps a softmax-weighted mean of the values: running, or over all tokens."""
    batch, tokens, heads, key = q.shape
    value = v.shape[-1]
    scale = key**-0.5 if scale is None else scale
    q = silu(q) if q_silu else q
    size = 2 * key if lrpe == "cosine" else key
    pieces = sequences(batch, tokens, cu_seqlens)
    position = np.zeros(len(pieces), np.int64) if initial_state_pos is None else np.array(initial_state_pos)
    grid = None if width is None else [axis for axis in (depth, height, width) if axis is not None]

    if lrpe != "none":
        angles = lrpe_angles(lrpe, theta, "shared", base, heads, key, grid)

    def turned(x, m, i):
        """Row x [H,K] of the i-th token of sequence m."""
        if lrpe == "none":
            return x
        return encode(lrpe, x, angles(position[m] + i if grid is None else np.unravel_index(i, grid)))

    o = np.zeros(v.shape)
    if not causal:
        for b in range(batch):
            e = np.exp(k[b] - k[b].max(0))
            p = e / e.sum(0)
            M = np.zeros((heads, size, value))
            for s in range(tokens):
                M += np.einsum("hk,hv->hkv", turned(p[s], b, s), v[b, s])
            for t in range(tokens):
                o[b, t] = scale * np.einsum("hkv,hk->hv", M, turned(q[b, t], b, t))
        return {"o": o}

    S = initial(initial_state, len(pieces), heads, size, value)
    z = np.full((len(pieces), heads, key), -np.inf) if initial_state_z is None else initial_state_z.astype(np.float64)
    for m, b, steps in pieces:
        for i, t in enumerate(steps):
            new = np.logaddexp(z[m], k[b, t])
            a, p = np.exp(z[m] - new), np.exp(k[b, t] - new)
            z[m] = new
            a = np.concatenate([a, a], -1) if lrpe == "cosine" else a
            S[m] = a[:, :, None] * S[m] + np.einsum("hk,hv->hkv", turned(p, m, i), v[b, t])
            o[b, t] = scale * np.einsum("hkv,hk->hv", S[m], turned(q[b, t], m, i))
        position[m] += len(steps)
    finals = {"final_state": S, "final_state_z": z}
    return {"o": o} | finals | ({} if lrpe == "none" else {"final_state_pos": position})

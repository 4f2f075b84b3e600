import numpy as np

from tests.reference.common import initial, most_heads, sequences, widen


def rotate(x, position, rotary, base):
    """One vector turned by its position."""
    half = x.shape[-1] // 2
    i = np.arange(half)
    if rotary == "half":
        angle = position * base ** (-2.0 * i / x.shape[-1])
        a, b = x[..., :half], x[..., half:]
        return np.concatenate([a * np.cos(angle) - b * np.sin(angle), b * np.cos(angle) + a * np.sin(angle)], -1)
    angle = position * base ** (-i / (half - 1.0))
    a, b = x[..., 0::2], x[..., 1::2]
    turned = np.empty_like(x)
    turned[..., 0::2] = a * np.cos(angle) - b * np.sin(angle)
    turned[..., 1::2] = b * np.cos(angle) + a * np.sin(angle)
    return turned


def retention(q, k, v, g=None, initial_state=None, initial_state_n=None, initial_state_z=None, initial_state_pos=None,
              cu_seqlens=None, *, scale=None, rotary="none", rotary_base=10000.0, normalize="none"):
    """S = lam S + k v^T, n = lam n + 1, z = lam z + k on rotated q and k; y = scale S^T q, then the normalisation."""
    batch, tokens, _, key = q.shape
    heads, value = most_heads(q, k, v), v.shape[-1]
    q, k, v = (widen(x, heads) for x in (q, k, v))
    lam = np.exp(np.log1p(-(2.0 ** (-5.0 - np.arange(heads)))) if g is None else g)
    scale = key**-0.5 if scale is None else scale
    pieces = sequences(batch, tokens, cu_seqlens)
    count = len(pieces)
    S = initial(initial_state, count, heads, key, value)
    n = initial(initial_state_n, count, heads)
    z = initial(initial_state_z, count, heads, key)
    pos = np.zeros(count, np.int64) if initial_state_pos is None else np.array(initial_state_pos, np.int64)
    o = np.zeros((batch, tokens, heads, value))
    for m, b, steps in pieces:
        for t in steps:
            qt, kt = q[b, t], k[b, t]
            if rotary != "none":
                qt, kt = (rotate(x, float(pos[m]), rotary, rotary_base) for x in (qt, kt))
            pos[m] += 1
            for h in range(heads):
                S[m, h] = lam[h] * S[m, h] + np.outer(kt[h], v[b, t, h])
                n[m, h] = lam[h] * n[m, h] + 1.0
                z[m, h] = lam[h] * z[m, h] + kt[h]
                y = scale * S[m, h].T @ qt[h]
                if normalize != "none":
                    y = y / np.sqrt(n[m, h])
                if normalize == "row":
                    y = y / max(abs(scale * qt[h] @ z[m, h] / np.sqrt(n[m, h])), 1.0)
                o[b, t, h] = y
    outputs = {"o": o, "final_state": S}
    if normalize != "none":
        outputs["final_state_n"] = n
    if normalize == "row":
        outputs["final_state_z"] = z
    if rotary != "none":
        outputs["final_state_pos"] = pos
    return outputs

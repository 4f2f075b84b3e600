import numpy as np

from tests.reference.common import elu1, initial, most_heads, sequences, silu, widen


def softmax_features(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


FEATURES = {
    "identity": lambda x: x,
    "elu1": elu1,
    "relu": lambda x: np.maximum(x, 0.0),
    "relu2": lambda x: np.maximum(x, 0.0) ** 2,
    "silu": silu,
    "exp": np.exp,
    "softmax": softmax_features,
}


def linear_attention(q, k, v, k_mask=None, initial_state=None, initial_state_z=None, cu_seqlens=None, *,
                     feature_map="identity", causal=True, normalize=False, scale=None, eps=1e-10):
    """M = sum phi(k) v^T, z = sum phi(k), over the past or over all keys; y = scale M^T phi(q), and if normalised
    y / (scale phi(q).z + eps)."""
    batch, tokens, _, key = q.shape
    heads, value = most_heads(q, k, v), v.shape[-1]
    phi = FEATURES[feature_map]
    q, k, v = widen(phi(q), heads), widen(phi(k), heads), widen(v, heads)
    scale = key**-0.5 if scale is None else scale

    def read(query, M, z):
        y = scale * M.T @ query
        return y / (scale * query @ z + eps) if normalize else y

    o = np.zeros((batch, tokens, heads, value))
    if not causal:
        for b in range(batch):
            counted = np.ones(k.shape[1], bool) if k_mask is None else np.asarray(k_mask[b], bool)
            if not counted.any():
                continue
            for h in range(heads):
                M = k[b, counted, h].T @ v[b, counted, h]
                z = k[b, counted, h].sum(0)
                for t in range(tokens):
                    o[b, t, h] = read(q[b, t, h], M, z)
        return {"o": o}

    pieces = sequences(batch, tokens, cu_seqlens)
    M = initial(initial_state, len(pieces), heads, key, value)
    z = initial(initial_state_z, len(pieces), heads, key)
    for m, b, steps in pieces:
        for t in steps:
            for h in range(heads):
                M[m, h] += np.outer(k[b, t, h], v[b, t, h])
                z[m, h] += k[b, t, h]
                o[b, t, h] = read(q[b, t, h], M[m, h], z[m, h])
    return {"o": o, "final_state": M} | ({"final_state_z": z} if normalize else {})

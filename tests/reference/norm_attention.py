import math

import numpy as np

from tests.reference.common import elu1, initial, most_heads, sequences, sigmoid, silu, widen

ERF = np.vectorize(math.erf)

FEATURES = {
    "elu1": elu1,
    "elu": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0.0))),
    "relu": lambda x: np.maximum(x, 0.0),
    "silu": silu,
    "sigmoid": sigmoid,
    "gelu": lambda x: 0.5 * x * (1.0 + ERF(x / math.sqrt(2.0))),
    "identity": lambda x: x,
}


def normalised(y, norm, scope, eps, weight, bias, gate):
    """The norm of one token's y [HO,V]."""
    if norm == "none":
        return y
    eps = (1e-5 if norm == "layer" else 1e-8) if eps is None else eps
    rows = [y.reshape(-1)] if scope == "model" else list(y)
    out = []
    for row in rows:
        if norm == "layer":
            x = (row - row.mean()) / math.sqrt(row.var() + eps)
        else:
            size = math.sqrt((row**2).mean()) + eps
            x = row / size if size > 0 else row
        x = x * (1.0 if weight is None else weight) + (0.0 if bias is None else bias)
        out.append(x * sigmoid(gate * row) if norm == "gated_rms" else x)
    return np.stack(out).reshape(y.shape)


def norm_attention(q, k, v, norm_weight=None, norm_bias=None, norm_gate=None, u=None, initial_state=None,
                   cu_seqlens=None, *, feature_map="elu1", causal=True, scale=1.0, norm="rms", norm_scope="model",
                   eps=None):
    """y = scale (sum phi(k) v^T)^T phi(q), over the past or over all keys;  o = norm(y) u."""
    batch, tokens, _, key = q.shape
    heads, value = most_heads(q, k, v), v.shape[-1]
    phi = FEATURES[feature_map]
    q, k, v = widen(phi(q), heads), widen(phi(k), heads), widen(v, heads)
    y = np.zeros((batch, tokens, heads, value))
    pieces = sequences(batch, tokens, cu_seqlens)
    M = initial(initial_state, len(pieces), heads, key, value)
    for m, b, steps in pieces:
        if not causal:
            for h in range(heads):
                M[m, h] = sum(np.outer(k[b, s, h], v[b, s, h]) for s in range(k.shape[1]))
        for t in steps:
            for h in range(heads):
                if causal:
                    M[m, h] += np.outer(k[b, t, h], v[b, t, h])
                y[b, t, h] = scale * M[m, h].T @ q[b, t, h]
    o = np.zeros_like(y)
    for b in range(batch):
        for t in range(tokens):
            o[b, t] = normalised(y[b, t], norm, norm_scope, eps, norm_weight, norm_bias, norm_gate)
    o = o if u is None else o * u
    return {"o": o} | ({"final_state": M} if causal else {})

import numpy as np

from tests.reference.common import elu1, most_heads, softmax_over, widen

FEATURES = {"identity": lambda x: x, "elu1": elu1, "relu": lambda x: np.maximum(x, 0.0)}


def softmax_split(q, k, v, splits, causal, scale):
    batch, tokens, heads, _ = q.shape
    k, v = widen(k, heads), widen(v, heads)
    o = np.zeros((batch, tokens, heads, v.shape[-1]))
    t = 0
    for length in splits:
        for _ in range(length):
            allowed = np.arange(tokens) <= (t if causal else tokens)
            for b in range(batch):
                for h in range(heads):
                    o[b, t, h], _ = softmax_over(scale * k[b, :, h] @ q[b, t, h], allowed, v[b, :, h])
            t += 1
    return {"o": o}


def lasp2(q, k, v, g=None, initial_state=None, initial_state_z=None, *, splits, kind="linear", causal=True,
          feature_map="identity", normalize=False, eps=1e-10, scale=None):
    """Every worker's memory, the prefixes that an exchange of these gives, and outputs from them."""
    batch, tokens, _, key = q.shape
    scale = key**-0.5 if scale is None else scale
    if kind == "softmax":
        return softmax_split(q, k, v, splits, causal, scale)
    heads, value = most_heads(q, k, v), v.shape[-1]
    phi = FEATURES[feature_map]
    q, k, v = widen(scale * phi(q), heads), widen(phi(k), heads), widen(v, heads)
    lam = np.ones(heads) if g is None else np.exp(g)
    ends = np.cumsum(splits)
    P = len(splits)
    memory, memory_z = np.zeros((P, batch, heads, key, value)), np.zeros((P, batch, heads, key))
    for p, end in enumerate(ends):
        for s in range(end - splits[p], end):
            for b in range(batch):
                for h in range(heads):
                    weight = lam[h] ** (end - 1 - s)
                    memory[p, b, h] += weight * np.outer(k[b, s, h], v[b, s, h])
                    memory_z[p, b, h] += weight * k[b, s, h]
    prefix, prefix_z = np.zeros(memory.shape), np.zeros(memory_z.shape)
    S = np.zeros((batch, heads, key, value)) if initial_state is None else initial_state.copy()
    z = np.zeros((batch, heads, key)) if initial_state_z is None else initial_state_z.copy()
    for p in range(P):
        if causal:
            prefix[p], prefix_z[p] = S, z
            kept = lam ** splits[p]
            S = kept[:, None, None] * S + memory[p]
            z = kept[:, None] * z + memory_z[p]
        else:
            prefix[p], prefix_z[p] = memory.sum(0), memory_z.sum(0)
    o = np.zeros((batch, tokens, heads, value))
    for p, end in enumerate(ends):
        start = end - splits[p]
        for t in range(start, end):
            for b in range(batch):
                for h in range(heads):
                    kept = lam[h] ** (t - start + 1) if causal else 1.0
                    top = kept * prefix[p, b, h].T @ q[b, t, h]
                    bottom = kept * prefix_z[p, b, h] @ q[b, t, h]
                    for s in range(start, t + 1 if causal else start):
                        weight = lam[h] ** (t - s) * (q[b, t, h] @ k[b, s, h])
                        top = top + weight * v[b, s, h]
                        bottom += weight
                    o[b, t, h] = top / (bottom + eps) if normalize else top
    out = {"o": o, "memory": memory, "prefix": prefix}
    if normalize:
        out |= {"memory_z": memory_z, "prefix_z": prefix_z}
    if causal:
        out |= {"final_state": S} | ({"final_state_z": z} if normalize else {})
    return out

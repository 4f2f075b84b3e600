import math

import numpy as np

from tests.reference.common import softmax_over


def dual_cross_attention(q, k, v, attn=None, k2=None, v2=None, *, mode="glca", scale=None, num_prefix=1,
                         top_ratio=0.1, top_r=None, include_prefix=True):
    batch, tokens, heads, size = q.shape
    scale = size**-0.5 if scale is None else scale

    def attend(b, t, keys, values):
        return [softmax_over(scale * keys[b, :, h] @ q[b, t, h], np.ones(keys.shape[1], bool), values[b, :, h])[0]
                for h in range(heads)]

    if mode == "pwca":
        keys, values = np.concatenate([k, k2], 1), np.concatenate([v, v2], 1)
        return {"o": np.array([[attend(b, t, keys, values) for t in range(tokens)] for b in range(batch)])}
    patches = tokens - num_prefix
    count = max(1, math.floor(top_ratio * patches + 1e-9)) if top_r is None else top_r
    rollout, indices = np.zeros((batch, tokens)), []
    for b in range(batch):
        product = np.eye(tokens)
        for layer in attn[b]:
            mean = layer.mean(0) if layer.ndim == 3 else layer
            product = (0.5 * mean + 0.5 * np.eye(tokens)) @ product
        rollout[b] = product[0]
        ranked = sorted(range(patches), key=lambda j: (-rollout[b, num_prefix + j], j))[:count]
        prefix = list(range(num_prefix)) if include_prefix else []
        indices.append(prefix + [num_prefix + j for j in ranked])
    o = np.array([[attend(b, t, k, v) for t in indices[b]] for b in range(batch)])
    return {"o": o, "indices": np.array(indices, np.int32), "rollout": rollout}

import numpy as np

from tests.reference.common import softmax_over, widen


def clear(q, k, v, spatial_weight=None, *, height, width, text_length=0, radius=16.0, down_factor=1, scale=None,
          return_lse=False):
    """Text reads all tokens; a token of the image reads text, the disc around it and all pooled tokens."""
    batch, tokens, heads, key = q.shape
    scale = key**-0.5 if scale is None else scale
    f = down_factor
    k, v = widen(k, heads), widen(v, heads)
    pooled = [[], []]
    if f > 1:
        weight = np.full((f, f), 1.0 / f**2) if spatial_weight is None else spatial_weight
        for Y in range(height // f):
            for X in range(width // f):
                for out, x in zip(pooled, (k, v)):
                    out.append(sum(weight[a, c] * x[:, text_length + (Y * f + a) * width + X * f + c]
                                   for a in range(f) for c in range(f)))
    extra = len(pooled[0])
    if extra:
        k = np.concatenate([k, np.stack(pooled[0], axis=1)], axis=1)
        v = np.concatenate([v, np.stack(pooled[1], axis=1)], axis=1)
    o, lse = np.zeros((batch, tokens, heads, v.shape[-1])), np.zeros((batch, tokens, heads))
    for n, i, h in np.ndindex(batch, tokens, heads):
        allowed = np.ones(tokens + extra, bool)
        if i < text_length:
            allowed[tokens:] = False
        else:
            y, x = divmod(i - text_length, width)
            for j in range(height * width):
                other_y, other_x = divmod(j, width)
                allowed[text_length + j] = (y - other_y) ** 2 + (x - other_x) ** 2 < radius**2
        o[n, i, h], lse[n, i, h] = softmax_over(scale * k[n, :, h] @ q[n, i, h], allowed, v[n, :, h])
    return {"o": o, "lse": lse} if return_lse else {"o": o}

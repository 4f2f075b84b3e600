import numpy as np

from tests.reference.common import sigmoid


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


def gpsa(q, k, v, pos_weight=None, pos_bias=None, gating=None, *, height, width, scale=None, locality_strength=1.0,
         return_attn=False, return_nonlocality=False):
    """A = (1 - sigmoid(gating)) softmax(q.k) + sigmoid(gating) softmax(scores of the offset); o = A v."""
    batch, tokens, heads, key = q.shape
    scale = key**-0.5 if scale is None else scale
    gating = np.ones(heads) if gating is None else gating
    pos_bias = np.zeros(heads) if pos_bias is None else pos_bias
    if pos_weight is None:
        side = round(heads**0.5)
        centre = (side - 1) / 2
        pos_weight = np.zeros((heads, 3))
        for a in range(side):
            for b in range(side):
                pos_weight[a + side * b] = [2 * (b - centre), 2 * (a - centre), -1.0]
        pos_weight *= locality_strength
    row, column = np.arange(tokens) // width, np.arange(tokens) % width
    attn = np.zeros((batch, heads, tokens, tokens))
    nonlocality = np.zeros((batch, heads))
    o = np.zeros(v.shape)
    for n, h, i in np.ndindex(batch, heads, tokens):
        dx, dy = column - column[i], row - row[i]
        content = softmax(scale * k[n, :, h] @ q[n, i, h])
        w = pos_weight[h]
        position = softmax(w[0] * dx + w[1] * dy + w[2] * (dx**2 + dy**2) + pos_bias[h])
        mixed = (1 - sigmoid(gating[h])) * content + sigmoid(gating[h]) * position
        attn[n, h, i] = mixed / mixed.sum()
        o[n, i, h] = attn[n, h, i] @ v[n, :, h]
        nonlocality[n, h] += attn[n, h, i] @ np.sqrt(dx**2 + dy**2) / tokens
    out = {"o": o}
    if return_attn:
        out["attn"] = attn
    if return_nonlocality:
        out["nonlocality"] = nonlocality
    return out

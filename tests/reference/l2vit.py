import numpy as np

from tests.reference.common import depthwise, gelu, softmax_over


def l2vit(q=None, k=None, v=None, temperature=None, pad_k=None, pad_v=None, x=None, conv1_weight=None, conv1_bias=None,
          bn_weight=None, bn_bias=None, bn_mean=None, bn_var=None, conv2_weight=None, conv2_bias=None, *, mode="global",
          denom_min=100.0, bn_eps=1e-5, window=7, scale=None, height=None, width=None):
    """global: relu attention whose row sum is at least denom_min; local: conv, gelu, norm, conv; window: softmax in
    windows that padding keys fill up."""
    if mode == "local":
        y = gelu(depthwise(x, conv1_weight, conv1_bias, height, width))
        y = (y - bn_mean) / np.sqrt(bn_var + bn_eps) * bn_weight + bn_bias
        return {"o": depthwise(y, conv2_weight, conv2_bias, height, width)}
    batch, tokens, heads, key = q.shape
    o = np.zeros((batch, tokens, heads, v.shape[3]))
    for n, i, h in np.ndindex(batch, tokens, heads):
        if mode == "global":
            weights = np.array([np.maximum(q[n, i, h], 0) @ np.maximum(other, 0) for other in k[n, :, h]])
            factor = key**-0.5 if temperature is None else temperature[h]
            o[n, i, h] = factor * (weights @ v[n, :, h]) / max(weights.sum(), denom_min)
            continue
        top, left = i // width // window * window, i % width // window * window
        keys, values = [], []
        for row in range(top, top + window):
            for column in range(left, left + window):
                if row < height and column < width:
                    keys.append(k[n, row * width + column, h])
                    values.append(v[n, row * width + column, h])
                else:
                    keys.append(np.zeros(key) if pad_k is None else pad_k[h])
                    values.append(np.zeros(v.shape[3]) if pad_v is None else pad_v[h])
        scores = np.array(keys) @ q[n, i, h] * (key**-0.5 if scale is None else scale)
        o[n, i, h] = softmax_over(scores, np.ones(len(keys), bool), np.array(values))[0]
    return {"o": o}

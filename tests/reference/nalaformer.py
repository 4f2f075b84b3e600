import numpy as np

from tests.reference.common import axial2d, layer_norm, lepe, mean_attention, silu


def nalaformer(q, k, v, lepe_weight=None, lepe_bias=None, norm_weight=None, norm_bias=None, gate=None, *, power_scale=3.0,
               power_shift=0.5, key_power=3.0, eps=1e-6, norm_eps=1e-5, rope="none", rope_base=10000.0, height=None,
               width=None):
    """Features of width 2K: the positive and the negative part of the query's direction to a power of its norm, and of
    the key's signed power."""
    K = q.shape[-1]
    a, b = np.zeros((*q.shape[:3], 2 * K)), np.zeros((*k.shape[:3], 2 * K))
    for at in np.ndindex(*q.shape[:3]):
        n = np.sqrt(sum(x * x for x in q[at]))
        for d, x in enumerate(q[at]):
            if x != 0:
                a[(*at, d if x > 0 else K + d)] = (abs(x) / n) ** (power_scale * (power_shift + np.tanh(n)))
    for at in np.ndindex(*k.shape):
        a_half = 0 if k[at] > 0 else K
        b[(*at[:3], at[3] + a_half)] = abs(k[at]) ** key_power

    def turn(x):
        if rope == "none":
            return x
        return np.concatenate([axial2d(x[..., :K], width, rope_base), axial2d(x[..., K:], width, rope_base)], axis=-1)

    o = mean_attention(a, b, v, eps, turn)
    if lepe_weight is not None:
        o = o + lepe(v, lepe_weight, lepe_bias, height, width)
    if norm_weight is not None:
        o = layer_norm(o.reshape(*o.shape[:2], -1), norm_weight, norm_bias, norm_eps).reshape(o.shape)
    return {"o": o if gate is None else o * silu(gate)}

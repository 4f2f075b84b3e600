import numpy as np

from tests.reference.common import axial2d, elu1, lepe, mean_attention


def rala(q, k, v, gate=None, lepe_weight=None, lepe_bias=None, *, scale=None, eps=1e-6, rope="none", rope_base=10000.0,
         height=None, width=None):
    """Keys alpha_j phi(k_j) with alpha = S softmax_j(scale mean(phi(q)) . phi(k_j))."""
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    a, b = elu1(q), elu1(k)
    for n, h in np.ndindex(b.shape[0], b.shape[2]):
        scores = scale * b[n, :, h] @ a[n, :, h].mean(0)
        alpha = np.exp(scores - scores.max())
        b[n, :, h] *= (len(alpha) * alpha / alpha.sum())[:, None]
    turn = (lambda x: axial2d(x, width, rope_base)) if rope == "axial2d" else (lambda x: x)
    o = mean_attention(a, b, v, eps, turn)
    if lepe_weight is not None:
        o = o + lepe(v, lepe_weight, lepe_bias, height, width)
    return {"o": o if gate is None else o * gate}

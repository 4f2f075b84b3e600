import numpy as np

from tests.reference.common import axial2d, elu1, lepe


def mala(q, k, v, gate=None, lepe_weight=None, lepe_bias=None, *, scale=None, eps=1e-6, rope="none", rope_base=10000.0,
         height=None, width=None):
    """z_i = scale/S sum_j phi(q_i).phi(k_j); o_i = (1 + 1/(z_i + eps)) sum_j a_ij v_j - z_i mean(v), where a_ij is the
    same product of rotated features."""
    keys = k.shape[1]
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    a, b = elu1(q), elu1(k)
    z = np.einsum("bthk,bshk->bths", a, b).sum(-1) * scale / keys
    if rope == "axial2d":
        a, b = axial2d(a, width, rope_base), axial2d(b, width, rope_base)
    weights = np.einsum("bthk,bshk->bths", a, b) * scale / keys
    o = (1.0 + 1.0 / (z + eps))[..., None] * np.einsum("bths,bshv->bthv", weights, v)
    o = o - z[..., None] * v.mean(1)[:, None]
    if lepe_weight is not None:
        o = o + lepe(v, lepe_weight, lepe_bias, height, width)
    return {"o": o if gate is None else o * gate}

import numpy as np

from tests.reference.common import elu1


def axial2d(x, width, base):
    """[B,N,H,K] turned: the first K/4 channel pairs by the token's row, the others by its column."""
    quarter = x.shape[-1] // 4
    frequency = base ** (-np.arange(quarter) / (quarter - 1.0)) if quarter > 1 else np.ones(1)
    token = np.arange(x.shape[1])
    angle = np.concatenate([np.outer(token // width, frequency), np.outer(token % width, frequency)], axis=1)
    cos, sin = np.cos(angle)[None, :, None, :], np.sin(angle)[None, :, None, :]
    a, b = x[..., 0::2], x[..., 1::2]
    turned = np.empty_like(x)
    turned[..., 0::2] = a * cos - b * sin
    turned[..., 1::2] = b * cos + a * sin
    return turned


def lepe(v, weight, bias, height, width):
    """Cross-correlation of every channel of v, laid out as an image with zeros around it, with its own kernel."""
    batch, tokens, heads, size = v.shape
    kh, kw = weight.shape[1:]
    image = v.reshape(batch, height, width, heads * size)
    padded = np.pad(image, ((0, 0), (kh // 2, kh // 2), (kw // 2, kw // 2), (0, 0)))
    out = np.zeros_like(image)
    for r in range(kh):
        for c in range(kw):
            out += padded[:, r : r + height, c : c + width] * weight[:, r, c]
    if bias is not None:
        out = out + bias
    return out.reshape(batch, tokens, heads, size)


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

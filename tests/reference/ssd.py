import numpy as np

from tests.reference.common import additive_recurrence, silu, softplus, widen


def ssd(x, dt, b, c, a=None, a_log=None, dt_bias=None, d=None, z=None, initial_state=None, cu_seqlens=None, *,
        dt_softplus=False, dt_min=0.0, dt_max=np.inf):
    """S = exp(dt a) S + b (dt x)^T, o = (S^T c + d x) silu(z)."""
    heads = x.shape[2]
    dt = dt if dt_bias is None else dt + dt_bias
    dt = np.clip(softplus(dt) if dt_softplus else dt, dt_min, dt_max)
    rate = a if a is not None else -np.exp(a_log)
    outputs = additive_recurrence(widen(c, heads), widen(b, heads), dt[..., None] * x,
                                  np.exp(dt * rate)[..., None], np.ones(1), initial_state, cu_seqlens, 1.0)
    if d is not None:
        outputs["o"] = outputs["o"] + (d[:, None] if d.ndim == 1 else d) * x
    if z is not None:
        outputs["o"] = outputs["o"] * silu(z)
    return outputs

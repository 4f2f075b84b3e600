import numpy as np


def merge_attention(o_parts, lse_parts):
    """o = sum_p exp(lse_p) o_p / sum_p exp(lse_p), lse = ln sum_p exp(lse_p), over the parts with lse_p > -inf."""
    o, lse = np.zeros(o_parts.shape[1:]), np.full(lse_parts.shape[1:], -np.inf)
    for row in np.ndindex(lse.shape):
        parts = [p for p in range(len(o_parts)) if lse_parts[(p, *row)] != -np.inf]
        if not parts:
            continue
        top = max(lse_parts[(p, *row)] for p in parts)
        total = sum(np.exp(lse_parts[(p, *row)] - top) for p in parts)
        o[row] = sum(np.exp(lse_parts[(p, *row)] - top) * o_parts[(p, *row)] for p in parts) / total
        lse[row] = top + np.log(total)
    return {"o": o, "lse": lse}

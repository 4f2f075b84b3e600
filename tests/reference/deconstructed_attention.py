import numpy as np

from tests.reference.based import based
from tests.reference.common import initial, sequences, silu, softmax_over, widen


def softmax_with_cache(q, k, v, scale, keys_before):
    """Queries at positions behind `keys_before` keys; k and v hold all of them."""
    batch, tokens, heads, _ = q.shape
    k, v = widen(k, heads), widen(v, heads)
    o = np.zeros((v.shape[0], tokens, heads, v.shape[-1]))
    for b in range(v.shape[0]):
        row = b if batch > 1 else 0
        row_k = b if k.shape[0] > 1 else 0
        for t in range(tokens):
            allowed = np.arange(k.shape[1]) <= keys_before + t
            for h in range(heads):
                o[b, t, h], _ = softmax_over(scale * k[row_k, :, h] @ q[row, t, h], allowed, v[b, :, h])
    return o


def standard(q, k, v, initial_state_k, initial_state_v, cu_seqlens, scale):
    if cu_seqlens is not None:
        o = np.zeros((*q.shape[:3], v.shape[-1]))
        for _, b, steps in sequences(1, q.shape[1], cu_seqlens):
            cut = np.array(steps, dtype=int)
            o[:, cut] = softmax_with_cache(q[:, cut], k[:, cut], v[:, cut], scale, 0)
        return {"o": o}
    before = 0 if initial_state_k is None else initial_state_k.shape[1]
    if before:
        k, v = np.concatenate([initial_state_k, k], 1), np.concatenate([initial_state_v, v], 1)
    return {"o": softmax_with_cache(q, k, v, scale, before), "final_state_k": k, "final_state_v": v}


def fixed(q, k, v, initial_state_v, scale):
    before = 0 if initial_state_v is None else initial_state_v.shape[1]
    tokens = v.shape[1]
    if before:
        v = np.concatenate([initial_state_v, v], 1)
    o = softmax_with_cache(q[:, before: before + tokens], k[:, : before + tokens], v, scale, before)
    return {"o": o, "final_state_v": v}


def non_approximate(q, k, v, m, den, num, cu_seqlens, scale):
    batch, tokens, heads, _ = q.shape
    k, v = widen(k, heads), widen(v, heads)
    pieces = sequences(batch, tokens, cu_seqlens)
    m = np.full((len(pieces), heads), -np.inf) if m is None else m.copy()
    den, num = initial(den, len(pieces), heads), initial(num, len(pieces), heads, v.shape[-1])
    o = np.zeros(v.shape)
    for i, b, steps in pieces:
        for t in steps:
            for h in range(heads):
                e = scale * silu(q[b, t, h]) @ k[b, t, h]
                top = max(m[i, h], e)
                old = np.exp(m[i, h] - top)
                den[i, h] = old * den[i, h] + np.exp(e - top)
                num[i, h] = old * num[i, h] + np.exp(e - top) * v[b, t, h]
                m[i, h] = top
                o[b, t, h] = num[i, h] / den[i, h]
    return {"o": o, "final_state_m": m, "final_state_den": den, "final_state_num": num}


def deconstructed_attention(q=None, k=None, v=None, x=None, w_gate=None, w_up=None, w_down=None, initial_state_k=None,
                            initial_state_v=None, initial_state=None, initial_state_z=None, initial_state_m=None,
                            initial_state_den=None, initial_state_num=None, cu_seqlens=None, *, variant="standard",
                            scale=None):
    if variant == "mlp":
        return {"y": (silu(x @ w_gate.T) * (x @ w_up.T)) @ w_down.T}
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    if variant == "approximate":
        return based(q, k, v, initial_state=initial_state, initial_state_z=initial_state_z, cu_seqlens=cu_seqlens,
                     scale=scale)
    if variant == "non_approximate":
        return non_approximate(q, k, v, initial_state_m, initial_state_den, initial_state_num, cu_seqlens, scale)
    if variant in ("rnd_emb_qk", "fixed_seq_qk"):
        return fixed(q, k, v, initial_state_v, scale)
    return standard(q, k, v, initial_state_k, initial_state_v, cu_seqlens, scale)

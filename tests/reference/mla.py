import numpy as np

from tests.reference.common import sequences, softmax_over


def rotate(row, position, rope, theta):
    """The pairs of a row turned by position * theta^(-2i/n); n channels, pair i is (i, i + n/2) or (2i, 2i + 1)."""
    out = np.array(row)
    n = len(row)
    for i in range(n // 2 if rope != "none" else 0):
        first, second = (i, i + n // 2) if rope == "half" else (2 * i, 2 * i + 1)
        angle = position * theta ** (-2.0 * i / n)
        out[first] = row[first] * np.cos(angle) - row[second] * np.sin(angle)
        out[second] = row[second] * np.cos(angle) + row[first] * np.sin(angle)
    return out


def mla(q, c, w_kv_b, k_rope=None, kv_norm_weight=None, initial_state_c=None, initial_state_r=None, cu_seqlens=None, *,
        scale=None, rope="none", rope_theta=10000.0, norm_eps=1e-6, window=None):
    """logit = scale (q^n.(W_k c~) + rope(q^r).r), o = sum softmax(logit) W_v c~ over the cache and the tokens so far."""
    batch, tokens, heads, width = q.shape
    turning = 0 if k_rope is None else k_rope.shape[-1]
    content = width - turning
    scale = width**-0.5 if scale is None else scale
    if kv_norm_weight is not None:
        c = c / np.sqrt((c**2).mean(-1, keepdims=True) + norm_eps) * kv_norm_weight
    past = 0 if initial_state_c is None else initial_state_c.shape[1]
    o = np.zeros((batch, tokens, heads, w_kv_b.shape[1] - content))
    turned = np.zeros((batch, tokens, turning))
    for _, b, steps in sequences(batch, tokens, cu_seqlens):
        for place, t in enumerate(steps):
            if turning:
                turned[b, t] = rotate(k_rope[b, t], past + place, rope, rope_theta)
        latents = c[b, steps.start : steps.stop]
        turns = turned[b, steps.start : steps.stop]
        if past:
            latents = np.concatenate([initial_state_c[b], latents])
            turns = np.concatenate([initial_state_r[b], turns]) if turning else np.zeros((len(latents), 0))
        for place, t in enumerate(steps):
            age = past + place - np.arange(len(latents))
            allowed = (age >= 0) if window is None else (age >= 0) & (age < window)
            for h in range(heads):
                turned_q = rotate(q[b, t, h, content:], past + place, rope, rope_theta)
                logits = latents @ w_kv_b[h, :content].T @ q[b, t, h, :content] + turns @ turned_q
                o[b, t, h], _ = softmax_over(scale * logits, allowed, latents @ w_kv_b[h, content:].T)
    outputs = {"o": o, "final_state_c": c if not past else np.concatenate([initial_state_c, c], axis=1)}
    if turning:
        outputs["final_state_r"] = turned if not past else np.concatenate([initial_state_r, turned], axis=1)
    return outputs

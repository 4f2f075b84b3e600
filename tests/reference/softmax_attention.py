import numpy as np

from tests.reference.common import sequences, softmax_over


def attend(q, k, v, q_positions, k_positions, mask, sinks, causal, scale, window_left, window_right, softcap):
    """One row: q [T,H,K], k [n,HK,K], v [n,HV,V] with their absolute positions; mask [T,n] or none."""
    tokens, heads, _ = q.shape
    o = np.zeros((tokens, heads, v.shape[-1]))
    lse = np.zeros((tokens, heads))
    for t in range(tokens):
        distance = q_positions[t] - k_positions
        allowed = np.ones(len(k_positions), bool) if mask is None else np.array(mask[t], bool)
        if causal:
            allowed &= distance >= 0
        if window_left >= 0:
            allowed &= distance <= window_left
        if window_right >= 0:
            allowed &= -distance <= window_right
        for h in range(heads):
            scores = scale * k[:, h // (heads // k.shape[1])] @ q[t, h]
            if softcap > 0:
                scores = softcap * np.tanh(scores / softcap)
            values = v[:, h // (heads // v.shape[1])]
            o[t, h], lse[t, h] = softmax_over(scores, allowed, values, None if sinks is None else sinks[h])
    return o, lse


def softmax_attention(q, k, v, mask=None, sinks=None, cu_seqlens=None, initial_state_k=None, initial_state_v=None,
                      initial_state_pos=None, *, causal=False, scale=None, window_left=-1, window_right=-1,
                      softcap=0.0, return_lse=False, cache="none"):
    batch, tokens, heads, key = q.shape
    keys = k.shape[1]
    scale = key**-0.5 if scale is None else scale
    settings = (sinks, causal, scale, window_left, window_right, softcap)
    o = np.zeros((batch, tokens, heads, v.shape[-1]))
    lse = np.zeros((batch, tokens, heads))
    outputs = {}

    if cache == "none":
        for _, b, steps in sequences(batch, tokens, cu_seqlens):
            rows = slice(steps.start, steps.stop)
            # Packed sequences have S = T; otherwise the last query faces the last key.
            columns = rows if cu_seqlens is not None else slice(0, keys)
            count = columns.stop - columns.start
            shown = None if mask is None else (mask[b] if mask.ndim == 3 else mask)
            positions = np.arange(len(steps)) + count - len(steps)
            o[b, rows], lse[b, rows] = attend(q[b, rows], k[b, columns], v[b, columns], positions, np.arange(count),
                                              shown, *settings)
    elif cache == "dense":
        past = 0 if initial_state_k is None else initial_state_k.shape[1]
        all_k = k if initial_state_k is None else np.concatenate([initial_state_k, k], axis=1)
        all_v = v if initial_state_v is None else np.concatenate([initial_state_v, v], axis=1)
        for b in range(batch):
            shown = None if mask is None else (mask[b] if mask.ndim == 3 else mask)
            o[b], lse[b] = attend(q[b], all_k[b], all_v[b], past + np.arange(tokens), np.arange(past + tokens), shown,
                                  *settings)
        outputs |= {"final_state_k": all_k, "final_state_v": all_v}
    else:
        slots = window_left + 1
        pieces = sequences(batch, tokens, cu_seqlens)
        ring_k = np.zeros((len(pieces), slots, *k.shape[2:]))
        ring_v = np.zeros((len(pieces), slots, *v.shape[2:]))
        position = np.zeros(len(pieces), np.int64)
        if initial_state_k is not None:
            ring_k[:], ring_v[:] = initial_state_k, initial_state_v
        if initial_state_pos is not None:
            position[:] = initial_state_pos
        for m, b, steps in pieces:
            rows = slice(steps.start, steps.stop)
            begin = int(position[m])
            held = np.arange(max(0, begin - slots), begin)
            row_k = np.concatenate([ring_k[m, held % slots], k[b, rows]])
            row_v = np.concatenate([ring_v[m, held % slots], v[b, rows]])
            fresh = begin + np.arange(len(steps))
            o[b, rows], lse[b, rows] = attend(q[b, rows], row_k, row_v, fresh, np.concatenate([held, fresh]), None,
                                              *settings)
            for p, t in zip(fresh, steps):
                ring_k[m, p % slots], ring_v[m, p % slots] = k[b, t], v[b, t]
            position[m] += len(steps)
        outputs |= {"final_state_k": ring_k, "final_state_v": ring_v, "final_state_pos": position}
    return {"o": o} | ({"lse": lse} if return_lse else {}) | outputs

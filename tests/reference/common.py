"""What several definitions share: heads, sequences, softmax over a set, the delta rule's loop."""

import math

import numpy as np


def widen(x, heads, axis=2):
    """Consecutive heads of the result share a head of x."""
    assert heads % x.shape[axis] == 0, f"{heads} heads from {x.shape[axis]}"
    return np.repeat(x, heads // x.shape[axis], axis=axis)


def most_heads(*tensors):
    return max(x.shape[2] for x in tensors)


def sequences(batch, tokens, cu_seqlens):
    """(index of its state, row of the batch, its tokens) for every sequence of a call."""
    if cu_seqlens is None:
        return [(b, b, range(tokens)) for b in range(batch)]
    bounds = [int(bound) for bound in cu_seqlens]
    return [(m, 0, range(begin, end)) for m, (begin, end) in enumerate(zip(bounds[:-1], bounds[1:]))]


def initial(state, count, *shape):
    """The state handed in, or zeros, one for each sequence."""
    return np.zeros((count, *shape)) if state is None else np.array(state, dtype=np.float64)


def softmax_over(scores, allowed, values, sink=None):
    """(output, lse) of one query: `scores` of its keys, which are `allowed`, their `values`; `sink` is one more logit,
    without a value. No key allowed: zeros, and the log of what the denominator holds."""
    logits = scores[allowed]
    if logits.size == 0:
        return np.zeros(values.shape[-1]), -np.inf if sink is None else float(sink)
    top = logits.max() if sink is None else max(logits.max(), float(sink))
    weights = np.exp(logits - top)
    total = weights.sum() + (0.0 if sink is None else np.exp(float(sink) - top))
    return weights @ values[allowed] / total, top + np.log(total)


def softplus(x):
    return np.logaddexp(0.0, x)


def sigmoid(x):
    return 0.5 * (1.0 + np.tanh(0.5 * x))


def silu(x):
    return x * sigmoid(x)


def elu1(x):
    return np.where(x > 0, x + 1.0, np.exp(np.minimum(x, 0.0)))


def delta_recurrence(q, k, v, log_decay, beta, initial_state, cu_seqlens, scale, qk_l2norm, qk_l2norm_eps,
                     beta_sigmoid, allow_neg_eigval):
    """decay, read and correct, write, output: for a token, with a = exp(log decay) per key channel,
         S~ = diag(a) S;  u = beta (v - S~^T k);  S = S~ + k u^T;  o = scale S^T q.
    log_decay [B,T,HO,K] or something that broadcasts to it."""
    batch, tokens, _, key = q.shape
    heads, value = most_heads(q, k, v), v.shape[-1]
    if qk_l2norm:
        q = q / np.sqrt((q**2).sum(-1, keepdims=True) + qk_l2norm_eps)
        k = k / np.sqrt((k**2).sum(-1, keepdims=True) + qk_l2norm_eps)
    q, k, v = (widen(x, heads) for x in (q, k, v))
    beta = np.ones((batch, tokens, heads)) if beta is None else widen(beta, heads)
    if beta_sigmoid:
        beta = sigmoid(beta) * (2.0 if allow_neg_eigval else 1.0)
    scale = key**-0.5 if scale is None else scale
    log_decay = np.broadcast_to(log_decay, (batch, tokens, heads, key))

    pieces = sequences(batch, tokens, cu_seqlens)
    state = initial(initial_state, len(pieces), heads, key, value)
    o = np.zeros((batch, tokens, heads, value))
    for m, b, steps in pieces:
        for t in steps:
            for h in range(heads):
                decayed = np.exp(log_decay[b, t, h])[:, None] * state[m, h]
                u = beta[b, t, h] * (v[b, t, h] - decayed.T @ k[b, t, h])
                state[m, h] = decayed + np.outer(k[b, t, h], u)
                o[b, t, h] = scale * state[m, h].T @ q[b, t, h]
    return {"o": o, "final_state": state}


def additive_recurrence(q, k, v, decay, decay_v, initial_state, cu_seqlens, scale):
    """S = diag(decay) S diag(decay_v) + k v^T;  o = scale S^T q. Decays [B,T,HO,K] and [B,T,HO,V], or what broadcasts
    to them; every head count is widened to the largest."""
    batch, tokens, _, key = q.shape
    heads, value = most_heads(q, k, v), v.shape[-1]
    q, k, v = (widen(x, heads) for x in (q, k, v))
    decay = np.broadcast_to(decay, (batch, tokens, heads, key))
    decay_v = np.broadcast_to(decay_v, (batch, tokens, heads, value))
    pieces = sequences(batch, tokens, cu_seqlens)
    state = initial(initial_state, len(pieces), heads, key, value)
    o = np.zeros((batch, tokens, heads, value))
    for m, b, steps in pieces:
        for t in steps:
            for h in range(heads):
                state[m, h] = decay[b, t, h][:, None] * state[m, h] * decay_v[b, t, h][None, :]
                state[m, h] += np.outer(k[b, t, h], v[b, t, h])
                o[b, t, h] = scale * state[m, h].T @ q[b, t, h]
    return {"o": o, "final_state": state}


def gelu(x):
    """x times the normal distribution's mass below x."""
    return 0.5 * x * (1.0 + np.vectorize(math.erf, otypes=[float])(x / math.sqrt(2.0)))


def layer_norm(x, weight, bias, eps):
    mean = x.mean(-1, keepdims=True)
    return (x - mean) / np.sqrt(((x - mean) ** 2).mean(-1, keepdims=True) + eps) * weight + bias


def turn_pairs(x, width, frequency):
    """x [B,N,..,D], tokens of an image: pair p of channels (2p, 2p + 1) turned by row * frequency[p] for p < D/4 and by
    column * frequency[p - D/4] after that."""
    turned = np.array(x)
    for i in range(x.shape[1]):
        for p in range(x.shape[-1] // 2):
            quarter = x.shape[-1] // 4
            angle = i // width * frequency[p] if p < quarter else i % width * frequency[p - quarter]
            a, b = x[:, i, ..., 2 * p], x[:, i, ..., 2 * p + 1]
            turned[:, i, ..., 2 * p] = a * np.cos(angle) - b * np.sin(angle)
            turned[:, i, ..., 2 * p + 1] = b * np.cos(angle) + a * np.sin(angle)
    return turned


def axial2d(x, width, base):
    """x [B,N,H,K] turned with K/4 frequencies from 1 to 1/base, both included."""
    quarter = x.shape[-1] // 4
    return turn_pairs(x, width, [base ** (-m / max(1, quarter - 1)) for m in range(quarter)])


def depthwise(x, weight, bias, height, width):
    """x [B,N,C], tokens of an image: cross-correlation of every channel with its kernel, weight [C,kh,kw] or
    [B,C,kh,kw], zeros outside the image."""
    kh, kw = weight.shape[-2:]
    out = np.zeros(x.shape)
    for y in range(height):
        for z in range(width):
            for r in range(kh):
                for c in range(kw):
                    row, column = y + r - kh // 2, z + c - kw // 2
                    if 0 <= row < height and 0 <= column < width:
                        out[:, y * width + z] += x[:, row * width + column] * weight[..., r, c]
    return out if bias is None else out + bias


def lepe(v, weight, bias, height, width):
    """The same of v [B,N,H,V], channels head by head."""
    return depthwise(v.reshape(*v.shape[:2], -1), weight, bias, height, width).reshape(v.shape)


def mean_attention(a, b, v, eps, turn=lambda x: x):
    """(1/d_i) (1/S) sum_j (R_i a_i . R_j b_j) v_j with d_i = (1/S) sum_j a_i . b_j + eps, query by query."""
    o = np.zeros((*a.shape[:3], v.shape[-1]))
    turned_a, turned_b = turn(a), turn(b)
    for n, i, h in np.ndindex(*a.shape[:3]):
        normaliser = np.mean([a[n, i, h] @ key for key in b[n, :, h]]) + eps
        weights = np.array([turned_a[n, i, h] @ key for key in turned_b[n, :, h]])
        o[n, i, h] = weights @ v[n, :, h] / len(weights) / normaliser
    return o


def moment(x, power):
    with np.errstate(divide="ignore"):
        return np.where(x == 0, 0.0, np.sign(x) * np.abs(x) ** power)


def unit_norm(x, axis):
    return x / np.maximum(np.sqrt((x**2).sum(axis, keepdims=True)), 1e-12)


def dense_conv(x, weight, height, width):
    """x [B,N,C], tokens of an image, weight [D,C,kh,kw] -> [B,N,D]; zeros outside the image."""
    kh, kw = weight.shape[2:]
    out = np.zeros((*x.shape[:2], weight.shape[0]))
    for y in range(height):
        for z in range(width):
            for r in range(kh):
                for c in range(kw):
                    row, column = y + r - kh // 2, z + c - kw // 2
                    if 0 <= row < height and 0 <= column < width:
                        out[:, y * width + z] += x[:, row * width + column] @ weight[:, :, r, c].T
    return out


def fusion_outputs(prefix, parts, height, width, normalize_over, out1_weight, out1_scale, out1_shift, out3_weight,
                   out3_scale, out3_shift):
    """Of GL-DMNet's fusions: the three parts (rgb, depth, fused) with unit norms, and the tail."""
    units = [unit_norm(part, 2 if normalize_over == "channel" else 1) for part in parts]
    out = {f"{prefix}_{name}": unit for name, unit in zip(("rgb", "depth", "fused"), units)}
    if out1_weight is not None:
        y = np.maximum(out1_scale * (np.concatenate(units, axis=-1) @ out1_weight.T) + out1_shift, 0.0)
        out["o"] = np.maximum(out3_scale * dense_conv(y, out3_weight, height, width) + out3_shift, 0.0)
    return out


def hedgehog_features(x, w, b, activation, fullspace, feature_eps):
    """One token's phi: y = x w (+ b), then exponentials of y and of -y."""

    def softmax(logits):
        e = np.exp(logits - logits.max())
        return e / e.sum()

    y = x @ w + (0.0 if b is None else b)
    if activation == "softmax_joint":
        phi = softmax(2 * np.concatenate([y, -y] if fullspace else [y]))
    else:
        half = {"softmax_dim": softmax, "exp_dim": lambda u: np.exp(u - u.max()), "exp": np.exp}[activation]
        phi = np.concatenate([half(y), half(-y)] if fullspace else [half(y)])
    return np.maximum(phi, feature_eps)


def hedgehog_map(q, k, w_q, w_k, b_q=None, b_k=None, activation="softmax_dim", fullspace=True, feature_eps=1e-12):
    """Features [B,T,H,E] of queries and of keys, these with their heads repeated; tied without w_k."""
    heads = q.shape[2]
    if w_k is None:
        w_k, b_k = w_q, b_q

    def features(x, w, b):
        rows, tokens = x.shape[:2]
        return np.array([[[hedgehog_features(x[r, t, h], w[h], None if b is None else b[h], activation, fullspace,
                                             feature_eps)
                           for h in range(heads)] for t in range(tokens)] for r in range(rows)])

    size = w_q.shape[2] * (2 if fullspace else 1)
    return tuple(features(x, w, b).reshape(*x.shape[:2], heads, size)
                 for x, w, b in ((q, w_q, b_q), (widen(k, heads), w_k, b_k)))


class Ring:
    """The last `slots` keys and values of a sequence: slot p mod C holds the token of position p."""

    def __init__(self, keys, values, position):
        self.keys, self.values, self.position = keys, values, int(position)

    def add(self, key, value):
        slot = self.position % len(self.keys)
        self.keys[slot], self.values[slot] = key, value
        self.position += 1

    def last(self, count):
        """Keys and values of the last tokens, oldest first: `count` of them, or as many as there are."""
        slots = [p % len(self.keys) for p in range(max(0, self.position - count), self.position)]
        return self.keys[slots], self.values[slots]


def rings(count, slots, k, v, initial_k, initial_v, initial_pos):
    """A ring for each sequence."""
    keys = initial(initial_k, count, slots, *k.shape[2:])
    values = initial(initial_v, count, slots, *v.shape[2:])
    positions = np.zeros(count, np.int64) if initial_pos is None else initial_pos
    return [Ring(keys[m], values[m], positions[m]) for m in range(count)]


def ring_states(all_rings):
    return {
        "final_state_k": np.stack([ring.keys for ring in all_rings]),
        "final_state_v": np.stack([ring.values for ring in all_rings]),
        "final_state_pos": np.array([ring.position for ring in all_rings], np.int64),
    }

"""What several definitions share: heads, sequences, softmax over a set, the delta rule's loop."""

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

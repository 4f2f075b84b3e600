import numpy as np

from tests.reference.common import initial, sequences, sigmoid

FEATURES = {"sigmoid": sigmoid, "relu": lambda x: np.maximum(x, 0.0) + 1e-6}


def clip(x, bound):
    return np.clip(x, -bound, bound) if bound > 0 else x


def normal(a, b, v, eps, clamp):
    """One head of one row: a [T,K], b [S,K], v [S,V]."""
    sinks, sources = a.shape[0], b.shape[0]
    incoming = 1.0 / ((a + eps) @ (b.sum(0) + eps))
    outgoing = 1.0 / ((b + eps) @ (a.sum(0) + eps))
    conserved_sink = (a + eps) @ ((b * outgoing[:, None]).sum(0) + eps)
    conserved_source = clip((b + eps) @ ((a * incoming[:, None]).sum(0) + eps), clamp)
    allocation = sigmoid(conserved_sink * sinks / sources)
    weights = np.exp(conserved_source - conserved_source.max())
    competition = sources * weights / weights.sum()
    return (allocation * incoming)[:, None] * ((a @ b.T) @ (competition[:, None] * v))


def flow_attention(q, k, v, cu_seqlens=None, initial_state=None, initial_state_k=None, initial_state_q=None,
                   initial_state_ko=None, initial_state_qi=None, initial_state_exp=None, initial_state_count=None, *,
                   causal=False, feature_map="sigmoid", eps=1e-6, clamp=1.0):
    """Competition of sources and allocation to sinks, from the conservation of flow."""
    batch, tokens, heads, key = q.shape
    value = v.shape[-1]
    a, b = FEATURES[feature_map](q), FEATURES[feature_map](k)
    o = np.zeros((batch, tokens, heads, value))
    if not causal:
        for row in range(batch):
            for h in range(heads):
                if tokens:
                    o[row, :, h] = normal(a[row, :, h], b[row, :, h], v[row, :, h], eps, clamp)
        return {"o": o}

    pieces = sequences(batch, tokens, cu_seqlens)
    count = len(pieces)
    S = initial(initial_state, count, heads, key, value)
    sum_k = initial(initial_state_k, count, heads, key)
    sum_q = initial(initial_state_q, count, heads, key)
    sum_ko = initial(initial_state_ko, count, heads, key)
    sum_qi = initial(initial_state_qi, count, heads, key)
    sum_exp = initial(initial_state_exp, count, heads)
    seen = np.zeros(count, np.int64) if initial_state_count is None else np.array(initial_state_count, np.int64)
    for m, row, steps in pieces:
        for t in steps:
            seen[m] += 1
            n = float(seen[m])
            for h in range(heads):
                at, bt = a[row, t, h], b[row, t, h]
                sum_k[m, h] += bt
                sum_q[m, h] += at
                incoming = n / ((at + eps) @ (sum_k[m, h] + eps))
                outgoing = n / ((bt + eps) @ (sum_q[m, h] + eps))
                sum_ko[m, h] += bt * outgoing
                sum_qi[m, h] += at * incoming
                conserved_sink = (at + eps) @ (sum_ko[m, h] + eps) / n
                conserved_source = clip((bt + eps) @ (sum_qi[m, h] + eps) / n, clamp)
                sum_exp[m, h] += np.exp(conserved_source)
                competition = n * np.exp(conserved_source) / sum_exp[m, h]
                S[m, h] += np.outer(bt, competition * v[row, t, h])
                o[row, t, h] = sigmoid(conserved_sink) * incoming / n * (S[m, h].T @ at)
    return {
        "o": o,
        "final_state": S,
        "final_state_k": sum_k,
        "final_state_q": sum_q,
        "final_state_ko": sum_ko,
        "final_state_qi": sum_qi,
        "final_state_exp": sum_exp,
        "final_state_count": seen,
    }

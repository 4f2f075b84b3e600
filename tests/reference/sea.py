import math

import numpy as np

from tests.reference.common import sigmoid, softmax_over


def layer_norm(x, weight, bias):
    mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) / np.sqrt(variance + 1e-5) * weight + bias


def gelu(x):
    return 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def softmax(x):
    weights = np.exp(x - x.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def conv(x, weight, bias, rows, row_of, columns_of):
    """out[o, t, m] = bias[o] + sum weight[o, c, a, b] x[c, row_of(t, a), columns_of(m, b)], zeros outside."""
    channels, height, width = x.shape
    out = np.zeros((len(weight), rows, width))
    for t in range(rows):
        for m in range(width):
            out[:, t, m] = bias
            for a in range(3):
                for b in range(3):
                    r, s = row_of(t, a), columns_of(m, b)
                    if 0 <= r < height and 0 <= s < width:
                        out[:, t, m] += weight[:, :, a, b] @ x[:, r, s]
    return out


def resized(image, height, width):
    rows, columns = image.shape
    out = np.zeros((height, width))
    for y in range(height):
        for x in range(width):
            sy = min(max((y + 0.5) * rows / height - 0.5, 0), rows - 1)
            sx = min(max((x + 0.5) * columns / width - 0.5, 0), columns - 1)
            y0, x0 = math.floor(sy), math.floor(sx)
            y1, x1 = min(y0 + 1, rows - 1), min(x0 + 1, columns - 1)
            top = image[y0, x0] * (1 - sx + x0) + image[y0, x1] * (sx - x0)
            low = image[y1, x0] * (1 - sx + x0) + image[y1, x1] * (sx - x0)
            out[y, x] = top * (1 - sy + y0) + low * (sy - y0)
    return out


def sea(q, k, v, projection, enc_w, enc_b, enc_ln_w, enc_ln_b, row_w, row_b, scaler_w, scaler_b, conv1_w, conv1_b,
        conv2_w, conv2_b, conv3_w, conv3_b, cnn_ln1_w=None, cnn_ln1_b=None, cnn_ln2_w=None, cnn_ln2_b=None,
        v_pos=None, *, causal=False, predictor_length=128, top_k=7, budget=None, scale=None, return_mask=False):
    batch, tokens, heads, size = q.shape
    P, features = predictor_length, len(projection)
    scale = size**-0.5 if scale is None else scale
    budget = ("query" if causal else "item") if budget is None else budget
    o = np.zeros(q.shape)
    estimates = np.zeros((batch, heads, tokens, P))
    token_masks = np.zeros((batch, heads, tokens, tokens), bool)
    if causal:
        positions = v_pos[:tokens]
    else:
        at = [t / (tokens - 1) * (size - 1) if tokens > 1 else 0.0 for t in range(tokens)]
        positions = np.array([[max(0.0, 1 - abs(a - c)) for c in range(size)] for a in at])

    for b in range(batch):
        encoded = np.zeros((heads, tokens, 2 * size))
        for h in range(heads):
            values = np.concatenate([positions, v[b, :, h]], 1)
            x, y = size**-0.25 * q[b, :, h], size**-0.25 * k[b, :, h]
            context = np.zeros((tokens, 2 * size))
            if causal:
                phi_q = np.maximum(scale * x @ projection.T, 0) + 1e-3
                phi_k = np.maximum(y @ projection.T, 0) + 1e-3
                for i in range(tokens):
                    weights = [phi_q[i] @ phi_k[j] for j in range(i + 1)]
                    bottom = phi_q[i] @ (phi_k[: i + 1].sum(0) + 1e-6)
                    context[i] = sum(w * values[j] for j, w in enumerate(weights)) / bottom
            else:
                dash_q, dash_k = x @ projection.T, y @ projection.T
                norm_q = (q[b, :, h] ** 2).sum(-1, keepdims=True) / (2 * math.sqrt(size))
                norm_k = (k[b, :, h] ** 2).sum(-1, keepdims=True) / (2 * math.sqrt(size))
                phi_q = features**-0.5 * (np.exp(dash_q - norm_q - dash_q.max(-1, keepdims=True)) + 1e-4)
                phi_k = features**-0.5 * (np.exp(dash_k - norm_k - dash_k.max()) + 1e-4)
                weights = phi_q @ phi_k.T
                context = weights @ values / weights.sum(-1, keepdims=True)
            joined = np.concatenate([context, v[b, :, h]], 1)
            encoded[h] = gelu(layer_norm(joined @ enc_w + enc_b, enc_ln_w, enc_ln_b))

        pieces = 2 if causal else 4
        rows = encoded @ row_w + row_b
        width = rows.shape[-1] // pieces
        image = np.zeros((pieces * heads, tokens, width))
        for h in range(heads):
            for s in range(pieces):
                image[pieces * h + s] = rows[h, :, s * width : (s + 1) * width]
        if causal:
            image = layer_norm(image, cnn_ln1_w, cnn_ln1_b)
            for weight, bias in ((conv1_w, conv1_b), (conv2_w, conv2_b)):
                image = conv(image, weight, bias, tokens, lambda t, a: t - 4 + 2 * a, lambda m, c: m - 2 + 2 * c)
                image = np.maximum(image, 0)
            wide = np.zeros((len(image), tokens, P + 2))
            for m in range(P):
                wide[:, :, m + 1] = image[:, :, m // 4]
            mixed = np.einsum("oc,ctm->otm", conv3_w[:, :, 0, 0], wide) + conv3_b[:, None, None]
            scores = np.zeros((heads, tokens, P))
            for i in range(P):
                scores[:, :, i] = mixed[:, :, i * (P + 2) // P : math.ceil((i + 1) * (P + 2) / P)].mean(-1)
            scores = layer_norm(scores, cnn_ln2_w, cnn_ln2_b)
        else:
            half = (tokens - 1) // 2 + 1
            image = np.maximum(conv(image, conv1_w, conv1_b, half, lambda t, a: 2 * t - 1 + a, lambda m, c: m - 1 + c), 0)
            image = np.maximum(conv(image, conv2_w, conv2_b, half, lambda t, a: t - 1 + a, lambda m, c: m - 1 + c), 0)
            image = np.repeat(image, 2, axis=1)
            image = conv(image, conv3_w, conv3_b, 2 * half, lambda t, a: t - 1 + a, lambda m, c: m - 1 + c)
            scores = np.array([resized(channel, tokens, P) for channel in image])
        estimate = estimates[b] = softmax(scores)

        kept = set()
        if budget == "item":
            ranked = sorted(np.ndindex(heads, tokens, P), key=lambda place: (-estimate[place], place))
            kept = set(ranked[: round(heads * top_k * P)])
        else:
            for i in range(tokens):
                count = max(1, round(heads * (top_k * P / (i + 1 if causal else tokens))))
                ranked = sorted(np.ndindex(heads, P), key=lambda place: (-estimate[place[0], i, place[1]], place))
                kept |= {(h, i, m) for h, m in ranked[:count]}

        def column(j, length):
            return min(max(math.floor((j + 0.5) / length * P - 1e-4), 0), P)

        gates = sigmoid(encoded @ scaler_w + scaler_b)
        for h in range(heads):
            for i in range(tokens):
                length = i + 1 if causal else tokens
                allowed = np.array([(h, i, column(j, length)) in kept and (j <= i or not causal)
                                    for j in range(tokens)], bool)
                token_masks[b, h, i] = allowed
                attended = softmax_over(scale * k[b, :, h] @ q[b, i, h], allowed, v[b, :, h])[0]
                if causal:
                    average = v[b, : i + 1, h].mean(0)
                else:
                    average = sum(estimate[h, :, column(j, tokens)].mean() * v[b, j, h] for j in range(tokens))
                g0, g1 = gates[h, i]
                o[b, i, h] = g1 * g0 * attended + (1 - g1) * average
    return {"o": o} | ({"estimate": estimates, "token_mask": token_masks} if return_mask else {})

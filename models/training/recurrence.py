"""Recurrences over time in chunks of batched products: what a recurrent layer computes, in a form that trains fast.

Heads come before time here: q, k [B,H,T,K], v [B,H,T,V], gates g in natural log. T is a multiple of CHUNK. All of it is
float32: sums over a whole text and inverses are no place for bfloat16.
"""

import functools

import torch

CHUNK = 64


def exact(function):
    """Whatever the precision of the layers around it."""

    @functools.wraps(function)
    def call(q, *others):
        with torch.autocast(q.device.type, enabled=False):
            return function(q, *others)

    return call


def causal(size, device, diagonal=0):
    return torch.ones(size, size, dtype=torch.bool, device=device).tril(diagonal)


def chunked(x):
    """[B,H,T,...] -> [B,H,T/CHUNK,CHUNK,...]"""
    return x.unflatten(2, (-1, CHUNK))


@exact
def linear(q, k, v):
    """o_t = q_t (sum over i <= t of k_i v_i^T), and the same with ones for v: [B,H,T,V], [B,H,T,1]."""
    q, k, v = map(chunked, (q, k, v))
    inner = (q @ k.mT).masked_fill(~causal(CHUNK, q.device), 0)
    sums = (k.mT @ v).cumsum(2)
    keys = k.sum(3, keepdim=True).cumsum(2)
    # A chunk starts from the sums of the chunks before it.
    before, keys_before = (torch.cat((x[:, :, :1] * 0, x[:, :, :-1]), 2) for x in (sums, keys))
    o = inner @ v + q @ before
    dots = inner.sum(-1, keepdim=True) + q @ keys_before.mT
    return o.flatten(2, 3), dots.flatten(2, 3)


@exact
def gated(q, k, v, g):
    """S_t = diag(exp g_t) S_{t-1} + k_t v_t^T, o_t = q_t S_t; g [B,H,T,K] <= 0."""
    q, k, v, g = map(chunked, (q, k, v, g))
    b = g.cumsum(3)
    middle = b[:, :, :, CHUNK // 2, None]
    # exp(b_i - b_j) as a product of two factors around the chunk's middle, which halves the exponents' range.
    inner = (q * (b - middle).exp()) @ (k * (middle - b).exp()).mT
    o = inner.masked_fill(~causal(CHUNK, q.device), 0) @ v
    total = b[:, :, :, -1:]
    add = (k * (total - b).exp()).mT @ v
    query, keep = q * b.exp(), total.exp().mT
    state = torch.zeros_like(add[:, :, 0])
    parts = []
    for c in range(q.shape[2]):
        parts.append(query[:, :, c] @ state)
        state = keep[:, :, c] * state + add[:, :, c]
    return (o + torch.stack(parts, 2)).flatten(2, 3)


def unit_lower_inverse(lower):
    """(I + lower)^-1 for strictly lower triangular [..,CHUNK,CHUNK], from blocks of one up to the whole."""
    inverse = torch.ones(*lower.shape[:-1], 1, 1, device=lower.device, dtype=lower.dtype)
    size = 1
    while size < CHUNK:
        blocks = lower.unflatten(-2, (-1, 2 * size)).unflatten(-1, (-1, 2 * size))
        corner = blocks.diagonal(dim1=-4, dim2=-2).movedim(-1, -3)[..., size:, :size]
        first, second = inverse[..., 0::2, :, :], inverse[..., 1::2, :, :]
        corner = -(second @ corner @ first)
        top = torch.cat((first, torch.zeros_like(first)), -1)
        inverse = torch.cat((top, torch.cat((corner, second), -1)), -2)
        size *= 2
    return inverse.squeeze(-3)


@exact
def delta(q, k, v, beta, g=None):
    """S_t = exp(g_t) (I - beta_t k_t k_t^T) S_{t-1} + beta_t k_t v_t^T, o_t = q_t S_t; beta, g [B,H,T], g <= 0 or none.

    Within a chunk every token writes u_i = beta_i (v_i - what the memory holds under k_i), which is a triangular system
    in the tokens before it; its inverse acts on values and on what the chunk's first state holds.
    """
    q, k, v, beta = map(chunked, (q, k, v, beta.unsqueeze(-1)))
    seen = causal(CHUNK, q.device)
    if g is None:
        since, b = seen.to(q.dtype), torch.zeros_like(beta)
    else:
        b = chunked(g).cumsum(3).unsqueeze(-1)
        since = (b - b.mT).masked_fill(~seen, float("-inf")).exp()
    inverse = unit_lower_inverse((beta * (k @ k.mT) * since).tril(-1))
    write = inverse @ (beta * v)
    erase = inverse @ (beta * b.exp() * k)
    inner = (q @ k.mT) * since
    query = q * b.exp()
    total = b[:, :, :, -1:]
    key, keep = (k * (total - b).exp()).mT, total.exp()
    state = torch.zeros_like(key[:, :, 0] @ v[:, :, 0])
    parts = []
    for c in range(q.shape[2]):
        u = write[:, :, c] - erase[:, :, c] @ state
        parts.append(query[:, :, c] @ state + inner[:, :, c] @ u)
        state = keep[:, :, c] * state + key[:, :, c] @ u
    return torch.stack(parts, 2).flatten(2, 3)

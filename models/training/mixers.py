"""Mixers with the parameter names and the arithmetic of flash-linear-attention's layers (fla/layers), in plain PyTorch."""

import math

import torch
from torch import nn
from torch.nn import functional as F

import recurrence


def heads(x, count):
    """[B,T,count*D] -> [B,count,T,D] in float32."""
    return x.unflatten(-1, (count, -1)).transpose(1, 2).float()


def together(x):
    return x.transpose(1, 2).flatten(2)


def repeat(x, count):
    """Consecutive heads share."""
    return x if x.shape[1] == count else x.repeat_interleave(count // x.shape[1], 1)


class RMSNorm(nn.Module):
    def __init__(self, size, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x):
        return F.rms_norm(x.float(), self.weight.shape, self.weight, self.eps)


def linear(inputs, outputs, bias=False):
    return nn.Linear(inputs, outputs, bias=bias)


class ShortConvolution(nn.Module):
    """Holds the taps [channels,1,taps]."""

    def __init__(self, channels, taps):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, 1, taps).uniform_(-1, 1) / math.sqrt(taps))


def convolved(x, weights):
    """A causal depthwise convolution and SiLU: x [B,T,channels]."""
    weight = torch.cat([w.weight for w in weights]).squeeze(1)
    taps = weight.shape[1]
    padded = F.pad(x.float(), (0, 0, taps - 1, 0))
    return F.silu(sum(padded[:, i : i + x.shape[1]] * weight[:, i] for i in range(taps)))


class SoftmaxAttention(nn.Module):
    """Full or sliding-window attention with rotary positions; a window of w is the token itself and w - 1 before it."""

    def __init__(self, hidden, spec):
        super().__init__()
        self.count = spec["num_heads"]
        self.shared = spec.get("num_kv_heads") or self.count
        self.window = spec.get("window_size")
        size = hidden // self.count
        self.q_proj = linear(hidden, hidden, spec.get("qkv_bias", False))
        self.k_proj = linear(hidden, self.shared * size, spec.get("qkv_bias", False))
        self.v_proj = linear(hidden, self.shared * size, spec.get("qkv_bias", False))
        if spec.get("qk_norm", False):
            self.q_norm, self.k_norm = RMSNorm(size, 1e-5), RMSNorm(size, 1e-5)
        self.o_proj = linear(hidden, hidden)
        exponents = torch.arange(0, size, 2, dtype=torch.float64) / size
        self.register_buffer("frequencies", spec.get("rope_theta", 10000.0) ** -exponents, persistent=False)

    def rotated(self, x):
        angles = torch.arange(x.shape[2], device=x.device)[:, None] * self.frequencies
        cos, sin = angles.cos().float(), angles.sin().float()
        a, b = x.chunk(2, -1)
        return torch.cat((a * cos - b * sin, a * sin + b * cos), -1)

    def forward(self, x):
        q, k = heads(self.q_proj(x), self.count), heads(self.k_proj(x), self.shared)
        v = self.v_proj(x).unflatten(-1, (self.shared, -1)).transpose(1, 2)
        if hasattr(self, "q_norm"):
            q, k = self.q_norm(q), self.k_norm(k)
        q, k = (self.rotated(t).to(v.dtype) for t in (q, k))
        k, v = repeat(k, self.count), repeat(v, self.count)
        seen = None
        if self.window is not None and self.window < x.shape[1]:
            seen = recurrence.causal(x.shape[1], x.device)
            seen = seen & ~recurrence.causal(x.shape[1], x.device, -self.window)
        return self.o_proj(together(F.scaled_dot_product_attention(q, k, v, seen, is_causal=seen is None)))


class ProductMap(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.layer1, self.layer2 = linear(size, size, True), linear(size, size, True)

    def forward(self, x):
        return self.layer1(x) * self.layer2(x)


class Recurrent(nn.Module):
    """Projections q, k, v, their short convolutions, and the way out: what the recurrent mixers share."""

    def __init__(self, hidden, count, shared, key, value, taps=None):
        super().__init__()
        self.count, self.shared, self.key, self.value = count, shared, key, value
        self.q_proj = linear(hidden, count * key)
        self.k_proj = linear(hidden, shared * key)
        self.v_proj = linear(hidden, shared * value)
        self.o_proj = linear(count * value, hidden)
        if taps:
            self.q_conv1d = ShortConvolution(count * key, taps)
            self.k_conv1d = ShortConvolution(shared * key, taps)
            self.v_conv1d = ShortConvolution(shared * value, taps)

    def streams(self, x, query_heads=None):
        """q, k, v by head, each with `count` heads."""
        projections = (self.q_proj, self.k_proj, self.v_proj)
        y = F.linear(x, torch.cat([p.weight for p in projections]))
        if hasattr(self, "q_conv1d"):
            y = convolved(y, (self.q_conv1d, self.k_conv1d, self.v_conv1d))
        q, k, v = y.split([p.weight.shape[0] for p in projections], -1)
        q, k = heads(q, query_heads or self.count), heads(k, query_heads or self.shared)
        return q, k, heads(v, v.shape[-1] // self.value)

    def out(self, o, norm, gate=None):
        o = norm(o.transpose(1, 2))
        if gate is not None:
            o = o * F.silu(gate.float()).unflatten(-1, (-1, self.value))
        return self.o_proj(o.flatten(2))


def sizes(config, expand_k):
    """hidden, heads, shared heads, key size, value size by the keys of config."""
    hidden, count = config["hidden_size"], config["num_heads"]
    key, value = (int(hidden * config.get(name, usual)) for name, usual in (("expand_k", expand_k), ("expand_v", 1.0)))
    return hidden, count, config.get("num_kv_heads") or count, key // count, value // count


class LinearAttention(Recurrent):
    def __init__(self, config):
        super().__init__(*sizes(config, 1.0))
        kind = config.get("feature_map", "elementwise_product")
        if kind == "elementwise_product":
            self.feature_map_q, self.feature_map_k = ProductMap(self.key), ProductMap(self.key)
        elif kind == "elu":
            self.feature_map_q = self.feature_map_k = lambda x: F.elu(x) + 1
        else:
            raise ValueError(f"feature_map: given {kind}, expected elementwise_product or elu")
        for name in ("norm_q", "norm_k", "tie_feature_map_qk"):
            if config.get(name):
                raise ValueError(f"{name}: given {config[name]}, expected false")
        self.normalise = config.get("norm_feature_map", False)
        self.norm = RMSNorm(self.value, config["norm_eps"])

    def forward(self, x):
        q, k, v = self.streams(x)
        q, k, v = self.feature_map_q(q).float(), repeat(self.feature_map_k(k).float(), self.count), repeat(v, self.count)
        o, dots = recurrence.linear(q * self.key**-0.5, k, v)
        return self.out(o / (dots + 1e-10) if self.normalise else o, self.norm)


class GLA(Recurrent):
    def __init__(self, config):
        super().__init__(*sizes(config, 0.5), config.get("conv_size", 4) if config.get("use_short_conv") else None)
        hidden = config["hidden_size"]
        self.gk_proj = nn.Sequential(linear(hidden, 16), linear(16, self.shared * self.key, True))
        self.g_proj = linear(hidden, self.count * self.value)
        self.g_norm_swish_gate = RMSNorm(self.value, config["norm_eps"])

    def forward(self, x):
        q, k, v = self.streams(x)
        g = F.logsigmoid(heads(self.gk_proj(x), self.shared)) / 16
        k, v, g = (repeat(t, self.count) for t in (k, v, g))
        return self.out(recurrence.gated(q * self.key**-0.5, k, v, g), self.g_norm_swish_gate, self.g_proj(x))


def unit(x):
    return x * (x.square().sum(-1, keepdim=True) + 1e-6).rsqrt()


class DeltaNet(Recurrent):
    def __init__(self, config):
        super().__init__(*sizes(config, 1.0), config.get("conv_size", 4))
        self.b_proj = linear(config["hidden_size"], self.count)
        if config.get("use_gate"):
            self.g_proj = linear(config["hidden_size"], self.count * self.value)
        self.o_norm = RMSNorm(self.value, config["norm_eps"])
        self.strength = 2 if config.get("allow_neg_eigval") else 1

    def forward(self, x):
        q, k, v = self.streams(x)
        beta = self.strength * self.b_proj(x).float().sigmoid().transpose(1, 2)
        o = recurrence.delta(unit(q) * self.key**-0.5, unit(k), v, beta)
        return self.out(o, self.o_norm, self.g_proj(x) if hasattr(self, "g_proj") else None)


class GatedDeltaNet(Recurrent):
    def __init__(self, config):
        count = config.get("num_v_heads") or config["num_heads"]
        key = config["head_dim"]
        value = int(key * config.get("expand_v", 2))
        super().__init__(config["hidden_size"], count, count, key, value, config.get("conv_size", 4))
        hidden, self.query_heads = config["hidden_size"], config["num_heads"]
        if self.query_heads != count:
            self.q_proj, self.k_proj = (linear(hidden, self.query_heads * key) for _ in range(2))
            self.q_conv1d, self.k_conv1d = (
                ShortConvolution(self.query_heads * key, config.get("conv_size", 4)) for _ in range(2)
            )
        self.a_proj, self.b_proj = linear(hidden, count), linear(hidden, count)
        # As the library draws them: rates of decay up to 16 a step, steps between 0.001 and 0.1.
        self.A_log = nn.Parameter(torch.empty(count).uniform_(0.01, 16).log())
        step = torch.empty(count).uniform_(math.log(1e-3), math.log(1e-1)).exp()
        self.dt_bias = nn.Parameter(step + (-torch.expm1(-step)).log())
        self.g_proj = linear(hidden, count * value)
        self.o_norm = RMSNorm(value, config["norm_eps"])
        self.strength = 2 if config.get("allow_neg_eigval") else 1

    def forward(self, x):
        q, k, v = self.streams(x, self.query_heads)
        q, k = (repeat(unit(t), self.count) for t in (q, k))
        beta = self.strength * self.b_proj(x).float().sigmoid().transpose(1, 2)
        g = -self.A_log.float().exp() * F.softplus(self.a_proj(x).float() + self.dt_bias)
        o = recurrence.delta(q * self.key**-0.5, k, v, beta, g.transpose(1, 2))
        return self.out(o, self.o_norm, self.g_proj(x))


BY_TYPE = {
    "delta_net": DeltaNet,
    "gated_deltanet": GatedDeltaNet,
    "gla": GLA,
    "linear_attn": LinearAttention,
    "transformer": lambda config: SoftmaxAttention(config["hidden_size"], config),
}


def make(config, layer):
    """The mixer of one layer: softmax where `attn` lists it, else the model's own."""
    listed = config.get("attn") or []
    for spec in listed if isinstance(listed, list) else [listed]:
        if layer in spec["layers"]:
            return SoftmaxAttention(config["hidden_size"], spec)
    if config["model_type"] not in BY_TYPE:
        raise ValueError(f"model_type: given {config['model_type']}, expected one of {', '.join(BY_TYPE)}")
    return BY_TYPE[config["model_type"]](config)

"""Decoding in PyTorch, to measure beside: `decode` of a gated_deltanet hybrid that keeps recurrent states, the last inputs of
convolutions, and a ring of keys and values, as eager PyTorch is written for speed: projections of one input stacked into one
product, states updated in place, all sequences of a batch at once.

    decode_pytorch.py folder --sessions 32 --prompt 64 --tokens 256 --threads 2 --dtype float32

Prints one JSON object: tokens per second of all sessions together, and the first session's tokens (the most probable each time).
"""

import argparse
import json
import pathlib
import time

import torch
from safetensors.torch import load_file
from torch.nn import functional as F


class GatedDeltaNet:
    def __init__(self, config, weights, prefix, sessions, dtype):
        take = lambda name: weights[f"{prefix}attn.{name}"]  # noqa: E731
        self.heads, self.key = config["num_heads"], config["head_dim"]
        self.value = int(self.key * config["expand_v"])
        self.width = self.heads * self.key
        names = ("q_proj", "k_proj", "v_proj", "b_proj", "a_proj", "g_proj")
        self.project = torch.cat([take(f"{name}.weight") for name in names]).to(dtype)
        self.sizes = [take(f"{name}.weight").shape[0] for name in names]
        self.taps = torch.cat([take(f"{name}_conv1d.weight") for name in "qkv"]).squeeze(1).t().contiguous().float()
        self.rate, self.bias = -take("A_log").float().exp(), take("dt_bias").float()
        self.norm, self.eps = take("o_norm.weight").float(), config["norm_eps"]
        self.out = take("o_proj.weight").to(dtype)
        self.inputs = torch.zeros(len(self.taps), sessions, sum(self.sizes[:3]))
        self.state = torch.zeros(sessions * self.heads, self.key, self.value)

    def step(self, x, position):
        n = x.shape[0]
        both = F.linear(x, self.project)
        qkv, b, a, gate = both.float().split([sum(self.sizes[:3]), *self.sizes[3:]], -1)
        self.inputs[position % len(self.taps)] = qkv
        order = [(position + 1 + i) % len(self.taps) for i in range(len(self.taps))]
        qkv = F.silu((self.inputs[order] * self.taps[:, None]).sum(0))
        q, k, v = qkv.split(self.sizes[:3], -1)
        q = F.normalize(q.reshape(n * self.heads, 1, self.key), dim=-1, eps=1e-6) * self.key**-0.5
        k = F.normalize(k.reshape(n * self.heads, 1, self.key), dim=-1, eps=1e-6)
        v = v.reshape(n * self.heads, 1, self.value)
        decay = (self.rate * F.softplus(a + self.bias)).exp().view(-1, 1, 1)
        self.state.mul_(decay)
        u = (v - torch.bmm(k, self.state)) * b.sigmoid().reshape(-1, 1, 1)
        self.state.baddbmm_(k.mT, u)
        o = torch.bmm(q, self.state).view(n, self.heads, self.value)
        o = F.rms_norm(o, (self.value,), self.norm, self.eps).view(n, -1) * F.silu(gate)
        return F.linear(o.to(x.dtype), self.out)


class Attention:
    def __init__(self, config, spec, weights, prefix, sessions, dtype):
        take = lambda name: weights[f"{prefix}attn.{name}.weight"].to(dtype)  # noqa: E731
        self.heads, self.shared = spec["num_heads"], spec["num_kv_heads"]
        self.size = config["hidden_size"] // self.heads
        self.window = spec["window_size"]
        self.project = torch.cat([take(f"{name}_proj") for name in "qkv"])
        self.out = take("o_proj")
        self.keys, self.values = (torch.zeros(sessions, self.shared, self.window, self.size, dtype=dtype) for _ in range(2))
        exponents = torch.arange(0, self.size, 2, dtype=torch.float64) / self.size
        angles = torch.arange(1 << 14)[:, None] * spec["rope_theta"] ** -exponents
        self.cos, self.sin = angles.cos().float(), angles.sin().float()

    def rotated(self, x, position):
        a, b = x.float().chunk(2, -1)
        cos, sin = self.cos[position], self.sin[position]
        return torch.cat((a * cos - b * sin, a * sin + b * cos), -1).to(x.dtype)

    def step(self, x, position):
        n = x.shape[0]
        qkv = F.linear(x, self.project).view(n, self.heads + 2 * self.shared, self.size)
        both = self.rotated(qkv[:, : self.heads + self.shared], position)
        at = position % self.window
        self.keys[:, :, at] = both[:, self.heads :]
        self.values[:, :, at] = qkv[:, self.heads + self.shared :]
        seen = min(position + 1, self.window)
        o = F.scaled_dot_product_attention(both[:, : self.heads, None], self.keys[:, :, :seen], self.values[:, :, :seen])
        return F.linear(o.reshape(n, -1), self.out)


class Model:
    def __init__(self, folder, sessions, dtype):
        config = json.loads((folder / "config.json").read_text())
        weights = load_file(folder / "model.safetensors")
        specs = config["attn"] if isinstance(config["attn"], list) else [config["attn"]]
        self.eps, self.dtype = config["norm_eps"], dtype
        self.embeddings = weights["model.embeddings.weight"].to(dtype)
        self.head = weights.get("lm_head.weight", weights["model.embeddings.weight"]).to(dtype)
        self.norm = weights["model.norm.weight"].float()
        self.layers = []
        for i in range(config["num_hidden_layers"]):
            prefix = f"model.layers.{i}."
            spec = next((s for s in specs if i in s["layers"]), None)
            mixer = (
                GatedDeltaNet(config, weights, prefix, sessions, dtype)
                if spec is None
                else Attention(config, spec, weights, prefix, sessions, dtype)
            )
            norms = [weights[f"{prefix}{name}_norm.weight"].float() for name in ("attn", "mlp")]
            up = torch.cat([weights[f"{prefix}mlp.{name}_proj.weight"] for name in ("gate", "up")]).to(dtype)
            self.layers.append((mixer, *norms, up, weights[f"{prefix}mlp.down_proj.weight"].to(dtype)))

    def normed(self, x, weight):
        return F.rms_norm(x, weight.shape, weight, self.eps).to(self.dtype)

    def step(self, tokens, position):
        """Logits of the next token: the residual is float32, products are of the weights' type."""
        x = F.embedding(tokens, self.embeddings).float()
        for mixer, mixer_norm, mlp_norm, up, down in self.layers:
            x = x + mixer.step(self.normed(x, mixer_norm), position)
            gate, value = F.linear(self.normed(x, mlp_norm), up).chunk(2, -1)
            x = x + F.linear(F.silu(gate) * value, down)
        return F.linear(self.normed(x, self.norm), self.head)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--sessions", type=int, default=1)
    parser.add_argument("--prompt", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with torch.inference_mode():
        model = Model(arguments.folder, arguments.sessions, getattr(torch, arguments.dtype))
        vocab = model.embeddings.shape[0]
        prompt = torch.tensor([[(97 + 7 * i + s) % vocab for i in range(arguments.prompt)] for s in range(arguments.sessions)])
        for position in range(arguments.prompt):
            logits = model.step(prompt[:, position], position)
        first = []
        begin = time.monotonic()
        for position in range(arguments.prompt, arguments.prompt + arguments.tokens):
            token = logits.argmax(-1)
            first.append(int(token[0]))
            logits = model.step(token, position)
        seconds = time.monotonic() - begin
    rate = arguments.sessions * arguments.tokens / seconds
    print(json.dumps({"torch": torch.__version__, "tokens_per_second": rate, "tokens": first}))


if __name__ == "__main__":
    main()

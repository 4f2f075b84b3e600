"""The language model around the mixers, and its files: config.json and model.safetensors as flash-linear-attention's."""

import json
import pathlib

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F

import mixers
import recurrence

ARCHITECTURES = {
    "delta_net": "DeltaNetForCausalLM",
    "gated_deltanet": "GatedDeltaNetForCausalLM",
    "gla": "GLAForCausalLM",
    "linear_attn": "LinearAttentionForCausalLM",
    "transformer": "TransformerForCausalLM",
}


class MLP(nn.Module):
    def __init__(self, hidden, inner):
        super().__init__()
        self.gate_proj, self.up_proj = mixers.linear(hidden, inner), mixers.linear(hidden, inner)
        self.down_proj = mixers.linear(inner, hidden)

    def forward(self, x):
        gate, up = F.linear(x, torch.cat((self.gate_proj.weight, self.up_proj.weight))).chunk(2, -1)
        return self.down_proj(F.silu(gate) * up)


class Block(nn.Module):
    def __init__(self, config, layer):
        super().__init__()
        hidden = config["hidden_size"]
        self.attn_norm = mixers.RMSNorm(hidden, config["norm_eps"])
        self.attn = mixers.make(config, layer)
        self.mlp_norm = mixers.RMSNorm(hidden, config["norm_eps"])
        self.mlp = MLP(hidden, config["intermediate_size"])


class LanguageModel(nn.Module):
    """Logits [B,T,vocab] of tokens [B,T]. `config` holds the keys of config.json; dropout is on residual branches."""

    def __init__(self, config, dropout=0.0):
        super().__init__()
        self.config = config
        self.dropout = nn.Dropout(dropout)
        hidden = config["hidden_size"]
        self.model = nn.Module()
        self.model.embeddings = nn.Embedding(config["vocab_size"], hidden)
        self.model.layers = nn.ModuleList(Block(config, i) for i in range(config["num_hidden_layers"]))
        self.model.norm = mixers.RMSNorm(hidden, config["norm_eps"])
        self.lm_head = mixers.linear(hidden, config["vocab_size"])
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                nn.init.normal_(module.weight, std=config.get("initializer_range", 0.02))
                if getattr(module, "bias", None) is not None:
                    nn.init.zeros_(module.bias)
        if config.get("tie_word_embeddings"):
            self.lm_head.weight = self.model.embeddings.weight

    def forward(self, tokens):
        length = tokens.shape[1]
        # Everything is causal: what is behind the end changes nothing before it.
        tokens = F.pad(tokens, (0, -length % recurrence.CHUNK))
        x = self.dropout(self.model.embeddings(tokens))
        for block in self.model.layers:
            x = x + self.dropout(block.attn(block.attn_norm(x)))
            x = x + self.dropout(block.mlp(block.mlp_norm(x)))
        return self.lm_head(self.model.norm(x))[:, :length]


def settings(model_type, **own):
    """A config.json: the keys that all classes share, and a class's own."""
    return {
        "architectures": [ARCHITECTURES[model_type]],
        "attn": None,
        "dtype": "bfloat16",
        "fuse_cross_entropy": True,
        "fuse_norm": True,
        "fuse_swiglu": True,
        "hidden_act": "swish",
        "initializer_range": 0.02,
        "model_type": model_type,
        "norm_eps": 1e-6,
        "tie_word_embeddings": True,
        "use_cache": True,
    } | own


def rounded(model):
    """The state that is saved: bfloat16, the head left out where it is the embedding."""
    state = {name: value.detach().to("cpu", torch.bfloat16).contiguous() for name, value in model.state_dict().items()}
    if model.config.get("tie_word_embeddings"):
        state.pop("lm_head.weight")
    return state


def save(model, folder):
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    weights = folder / "model.safetensors"
    save_file(rounded(model), weights, {"format": "pt"})
    weights.chmod(0o644)
    (folder / "config.json").write_text(json.dumps(model.config, indent=2, sort_keys=True) + "\n")


def read(folder):
    """The model of a folder, in float32."""
    folder = pathlib.Path(folder)
    model = LanguageModel(json.loads((folder / "config.json").read_text()))
    state = load_file(folder / "model.safetensors")
    if model.config.get("tie_word_embeddings"):
        state.setdefault("lm_head.weight", state["model.embeddings.weight"])
    model.load_state_dict(state)
    return model.float().eval()

from tests.wire.draw import case, packed, qkv, qkv_pieces

FLOAT32 = {"g", "initial_state"}


@case
def lightning_attention__alibi(d):
    return qkv(d, T=70), {}


@case
def lightning_attention__alibi_six_heads(d):
    return qkv(d, T=70, H=6, HK=3, HV=2), {"layer_idx": 2, "num_layers": 5, "scale": 0.5}


@case
def lightning_attention__linear(d):
    return qkv(d, T=70) | {"initial_state": d.normal(2, 4, 16, 20)}, {
        "decay": "linear", "layer_idx": 1, "num_layers": 4,
    }


@case
def lightning_attention__none(d):
    return qkv(d), {"decay": "none"}


@case
def lightning_attention__own_decay_packed(d):
    state = {"initial_state": d.normal(4, 4, 16, 20)}
    return qkv(d, B=1) | {"g": d.decay(4), "cu_seqlens": packed()} | state, {}


PIECES = [{}]


def pieces(d, tokens):
    return qkv_pieces(d, tokens)

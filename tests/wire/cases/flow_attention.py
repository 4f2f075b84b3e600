from tests.wire.draw import case, packed, qkv, qkv_pieces

FLOAT32 = {"initial_state", "initial_state_exp", "initial_state_k", "initial_state_ko", "initial_state_q", "initial_state_qi"}
AMPLIFIES = True


@case
def flow_attention__normal(d):
    return qkv(d, S=50, HK=4), {}


@case
def flow_attention__relu_unclamped(d):
    return qkv(d, S=50, HK=4), {"feature_map": "relu", "clamp": 0.0, "eps": 1e-4}


@case
def flow_attention__causal(d):
    return qkv(d, T=70, HK=4), {"causal": True, "clamp": 5.0}


@case
def flow_attention__causal_packed(d):
    return qkv(d, B=1, HK=4) | {"cu_seqlens": packed()}, {"causal": True}


PIECES = [{"causal": True}]


def pieces(d, tokens):
    return qkv_pieces(d, tokens)

from tests.wire.draw import case, packed

FLOAT32 = {"w", "initial_state"}
AMPLIFIES = True


def layer(d, B=2, T=37, H=3, K=16, V=20):
    return {
        "r": d.normal(B, T, H, K), "w": 0.6 * d.decay(B, T, H, K), "k": d.normal(B, T, H, K),
        "v": d.normal(B, T, H, V), "kk": d.unit(B, T, H, K), "rate": d.probability(B, T, H, K),
    }


@case
def rwkv7__layer(d):
    return layer(d, T=70), {}


@case
def rwkv7__general(d):
    inputs = layer(d)
    inputs["a"], inputs["b"] = 0.5 * d.unit(2, 37, 3, 16), d.unit(2, 37, 3, 16)
    return {name: x for name, x in inputs.items() if name not in ("kk", "rate")}, {"scale": 0.3}


@case
def rwkv7__total_forgetting(d):
    inputs = layer(d, K=5, V=3)
    inputs["w"][:, 12] = -float("inf")
    return inputs, {}


@case
def rwkv7__packed_with_state(d):
    return layer(d, B=1) | {"initial_state": d.normal(4, 3, 16, 20), "cu_seqlens": packed()}, {}


PIECES = [{}]


def pieces(d, tokens):
    return layer(d, T=tokens), {}

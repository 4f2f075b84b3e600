from tests.wire.draw import case, packed, qkv_pieces

FLOAT32 = {"initial_state", "lower_bound"}


def hgrn2_inputs(d, B=2, T=70):
    return {"q": d.normal(B, T, 4, 16), "f": d.normal(B, T, 4, 16), "v": d.normal(B, T, 4, 20)}


@case
def hgrn2__plain(d):
    return hgrn2_inputs(d), {}


@case
def hgrn2__bounded(d):
    return hgrn2_inputs(d) | {"lower_bound": d.probability(4, 16), "initial_state": d.normal(2, 4, 16, 20)}, {
        "q_silu": False, "scale": 0.3,
    }


@case
def hgrn2__gates_nearly_open_and_shut(d):
    inputs = hgrn2_inputs(d)
    return inputs | {"f": 8.0 * inputs["f"]}, {}


@case
def hgrn2__packed(d):
    state = {"initial_state": d.normal(4, 4, 16, 20), "lower_bound": d.probability(4, 16)}
    return hgrn2_inputs(d, B=1, T=37) | state | {"cu_seqlens": packed()}, {}


PIECES = [{}]


def pieces(d, tokens):
    along, fixed = qkv_pieces(d, tokens)
    along["f"] = along.pop("k")
    return along, fixed

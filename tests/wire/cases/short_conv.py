from tests.wire.draw import case, packed

FLOAT32 = {"initial_state"}


@case
def short_conv__silu(d):
    return {"x": d.normal(2, 37, 20), "weight": d.normal(20, 4), "bias": d.normal(20)}, {}


@case
def short_conv__residual_and_state(d):
    inputs = {"x": d.normal(2, 37, 20), "weight": d.normal(20, 3), "residual": d.normal(2, 37, 20)}
    return inputs | {"initial_state": d.normal(2, 20, 2)}, {"activation": "none"}


@case
def short_conv__one_tap(d):
    return {"x": d.normal(2, 5, 3), "weight": d.normal(3, 1)}, {}


@case
def short_conv__packed(d):
    inputs = {"x": d.normal(1, 37, 20), "weight": d.normal(20, 4), "initial_state": d.normal(4, 20, 3)}
    return inputs | {"cu_seqlens": packed()}, {}


@case
def short_conv__shorter_than_its_taps(d):
    return {"x": d.normal(2, 2, 20), "weight": d.normal(20, 4), "initial_state": d.normal(2, 20, 3)}, {}


PIECES = [{}]


def pieces(d, tokens):
    return {"x": d.normal(2, tokens, 12)}, {"weight": d.normal(12, 4)}

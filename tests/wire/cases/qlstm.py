import numpy as np

from tests.wire.draw import case, packed

FLOAT32 = {"alpha", "initial_state"}


def cell(d, *names, B=2, T=37, D=12):
    return {name: d.normal(B, T, D) for name in ("x", "f", *names)}


@case
def qlstm__plain(d):
    return cell(d, "i", T=70), {}


@case
def qlstm__gated_with_exponent(d):
    return cell(d, "i", "o", "gate") | {"alpha": np.array([1.7])}, {}


@case
def qlstm__negative_exponent(d):
    return cell(d, "i", "gate") | {"alpha": np.array([-0.5])}, {}


@case
def qlstm__scalar_exponent_tied(d):
    return cell(d, "o") | {"alpha": np.array(0.6)}, {"tied": True}


@case
def qlstm__classical_cell(d):
    return cell(d, "i", "o"), {"reversed": False, "activation": "tanh", "output_activation": "tanh"}


@case
def qlstm__packed_with_state(d):
    inputs = cell(d, "gate", B=1, D=7) | {"initial_state": d.normal(4, 7), "cu_seqlens": packed()}
    return inputs, {"tied": True, "reversed": False}


PIECES = [{}, {"output_activation": "tanh"}]


def pieces(d, tokens):
    return cell(d, "i", "o", "gate", T=tokens), {"alpha": np.array([1.3])}

import numpy as np

from tests.wire.draw import CASES, case, packed

FLOAT32 = {"theta"}


def lrpe_case(**attributes):
    def draw(d):
        return {"x": d.normal(2, 37, 3, 10)}, attributes

    return draw


CASES["lrpe"] = {
    f"{kind}_{rule}{'_grid' if grid else ''}": lrpe_case(kind=kind, theta_rule=rule, **grid)
    for kind in ("cosine", "rotate")
    for rule in ("head", "shared")
    for grid in ({}, {"height": 5, "width": 7, "prefix": 2})
}


@case
def lrpe__own_angles_at_positions(d):
    inputs = {"x": d.normal(2, 37, 3, 10), "theta": d.normal(3, 4), "initial_state_pos": np.array([0, 99000])}
    return inputs, {"kind": "rotate"}


@case
def lrpe__packed(d):
    inputs = {"x": d.normal(1, 37, 3, 10), "theta": d.normal(1, 10), "initial_state_pos": np.array([3, 0, 7, 1])}
    return inputs | {"cu_seqlens": packed()}, {}


@case
def lrpe__volume_of_own_angles(d):
    return {"x": d.normal(1, 24, 2, 7), "theta": d.normal(2, 4)}, {"depth": 2, "height": 3, "width": 4, "base": 7.0}


@case
def lrpe__width_alone(d):
    return {"x": d.normal(1, 24, 2, 8)}, {"width": 24, "kind": "rotate", "base": 100.0}


PIECES = [{}, {"kind": "rotate", "theta_rule": "shared"}]


def pieces(d, tokens):
    return {"x": d.normal(2, tokens, 3, 10)}, {}

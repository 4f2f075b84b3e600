import numpy as np

from tests.wire.draw import case, qkv

FLOAT32 = {"g", "initial_state", "initial_state_z"}


@case
def lasp2__plain(d):
    return qkv(d, T=70), {"splits": [30, 0, 17, 23]}


@case
def lasp2__decaying_from_a_state(d):
    state = {"initial_state": d.normal(2, 4, 16, 20), "g": -d.rng.uniform(0.01, 0.3, 4)}
    return qkv(d) | state, {"splits": [5, 31, 1], "scale": 0.4}


@case
def lasp2__normalised_from_a_state(d):
    state = {"initial_state": d.normal(2, 4, 16, 20), "initial_state_z": np.abs(d.normal(2, 4, 16)) * 5}
    return qkv(d, HV=2) | state, {"splits": [20, 17], "normalize": True, "feature_map": "elu1", "eps": 0.01}


@case
def lasp2__normalised_and_decaying(d):
    inputs = qkv(d) | {"g": -d.rng.uniform(0.01, 0.3, 4)}
    return inputs, {"splits": [20, 17], "normalize": True, "feature_map": "elu1"}


@case
def lasp2__unmasked(d):
    return qkv(d), {"splits": [12, 12, 13], "causal": False, "feature_map": "relu"}


@case
def lasp2__unmasked_normalised(d):
    return qkv(d), {"splits": [37], "causal": False, "feature_map": "elu1", "normalize": True}


@case
def lasp2__softmax(d):
    return qkv(d, HV=2), {"splits": [9, 0, 28], "kind": "softmax"}


@case
def lasp2__softmax_unmasked(d):
    return qkv(d, HV=1), {"splits": [1, 36], "kind": "softmax", "causal": False, "scale": 0.5}

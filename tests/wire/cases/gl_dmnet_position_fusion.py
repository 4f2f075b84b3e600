from tests.wire.draw import case

AMPLIFIES = True


def features(d, C, tokens):
    inputs = {"f_rgb": d.normal(2, tokens, C), "f_depth": d.normal(2, tokens, C), "sp_weight": d.normal(2, 7, 7)}
    inputs |= {"sp_scale": d.normal(1), "sp_shift": d.normal(1), "mix_weight": d.normal(C, C)}
    return inputs | {"mix_scale": d.normal(C), "mix_shift": d.normal(C)}


def tail(d, C):
    inputs = {"out1_weight": d.normal(C, 3 * C), "out3_weight": d.normal(C, C, 3, 3)}
    return inputs | {f"out{i}_{part}": d.normal(C) for i in (1, 3) for part in ("scale", "shift")}


@case
def gl_dmnet_position_fusion__plain(d):
    return features(d, 12, 35), {"height": 5, "width": 7}


@case
def gl_dmnet_position_fusion__tail(d):
    return features(d, 8, 24) | tail(d, 8), {
        "height": 4, "width": 6, "normalize_over": "position", "gate": "sigmoid", "moment_power": 0.75,
    }


@case
def gl_dmnet_position_fusion__linear(d):
    return features(d, 7, 12) | tail(d, 7), {"height": 3, "width": 4, "moment_power": 1.0}


@case
def gl_dmnet_position_fusion__many_receivers(d):
    return features(d, 5, 300), {"height": 15, "width": 20}

from tests.wire.draw import case

AMPLIFIES = True


def features(d, C, R, tokens):
    inputs = {"f_rgb": d.normal(2, tokens, C), "f_depth": d.normal(2, tokens, C), "fc1_weight": d.normal(R, 2 * C)}
    inputs |= {"fc2_weight": d.normal(2 * C, R), "mix_weight": d.normal(C, 2 * C)}
    return inputs | {"mix_scale": d.normal(C), "mix_shift": d.normal(C)}


def tail(d, C):
    inputs = {"out1_weight": d.normal(C, 3 * C), "out3_weight": d.normal(C, C, 3, 3)}
    return inputs | {f"out{i}_{part}": d.normal(C) for i in (1, 3) for part in ("scale", "shift")}


@case
def gl_dmnet_channel_fusion__plain(d):
    return features(d, 12, 3, 35), {"height": 5, "width": 7}


@case
def gl_dmnet_channel_fusion__tail(d):
    inputs = features(d, 8, 4, 24) | {"fc1_bias": d.normal(4), "fc2_bias": d.normal(16)} | tail(d, 8)
    return inputs, {
        "height": 4, "width": 6, "normalize_over": "position", "gate": "sigmoid", "moment_power": 0.75,
    }


@case
def gl_dmnet_channel_fusion__one_token(d):
    return features(d, 7, 2, 1) | {"fc2_bias": d.normal(14)}, {"height": 1, "width": 1}

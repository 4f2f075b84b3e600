"""config_keys.json against the library: the keys of its config classes, all of them, and their defaults."""

import importlib
import inspect
import json
import math
import pathlib

import pytest

library = pytest.importorskip("fla.models", reason="flash-linear-attention, whose classes these are, is not installed")

KEYS = json.loads((pathlib.Path(__file__).parent / "config_keys.json").read_text())


def plain(value):
    """As config.json has it."""
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    return {"__float__": "Infinity"} if value == math.inf else value


def defaults(model_type):
    module = importlib.import_module(f"fla.models.{model_type}")
    (config,) = (c for c in vars(module).values() if getattr(c, "model_type", None) == model_type)
    parameters = inspect.signature(config.__init__).parameters
    return {name: plain(p.default) for name, p in parameters.items() if name not in ("self", "kwargs")}


@pytest.mark.parametrize("model_type", KEYS)
def test_keys_and_defaults_are_the_library_s(model_type):
    assert {key: entry[1] for key, entry in KEYS[model_type].items()} == defaults(model_type)

"""Calls of every operator with fresh inputs, a module each; see tests/wire/draw.py."""

import importlib
import pkgutil

from tests.wire.draw import CASES

MODULES = {found.name: importlib.import_module(f"{__name__}.{found.name}") for found in pkgutil.iter_modules(__path__)}

assert set(MODULES) == set(CASES), f"modules and their cases differ: {set(MODULES) ^ set(CASES)}"


def said(op, name, default):
    """What the operator's module says of it under that name."""
    return getattr(MODULES[op], name, default)

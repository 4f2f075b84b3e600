"""Definitions of the operators in NumPy float64, written from their equations and from nothing else of the project:
token by token or pair by pair, as slow as they are plain. A module holds the function of its name; `REFERENCE[op](**inputs,
**attributes)` gives the outputs by name."""

import importlib
import pkgutil

REFERENCE = {
    found.name: getattr(importlib.import_module(f"{__name__}.{found.name}"), found.name)
    for found in pkgutil.iter_modules(__path__)
    if found.name != "common"
}

"""Enough of torchvision for timm to be imported: its wheels need another torch than the tests', and no tower uses it.

Every name is an empty class; what would be computed with it fails.
"""

import importlib
import importlib.machinery
import sys
from types import ModuleType
from typing import Any

NAMES = ("", ".datasets", ".models", ".models.feature_extraction", ".ops", ".ops.misc", ".transforms")
NAMES += (".transforms.functional",)


class _Fake(ModuleType):
    __path__ = ()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {"NEAREST": 0, "BILINEAR": 2, "BICUBIC": 3, "BOX": 4, "HAMMING": 5, "LANCZOS": 1})


def import_timm() -> ModuleType:
    """timm and transformers' wrapper of it; torchvision is gone again afterwards: nobody else may take it for real."""
    if importlib.util.find_spec("torchvision") is not None:
        return importlib.import_module("timm")
    for name in NAMES:
        module = sys.modules[f"torchvision{name}"] = _Fake(f"torchvision{name}")
        parent, _, leaf = module.__name__.rpartition(".")
        if parent:
            setattr(sys.modules[parent], leaf, module)
    try:
        timm = importlib.import_module("timm")
    finally:
        for name in NAMES:
            del sys.modules[f"torchvision{name}"]
    _let_transformers_see_it()
    return timm


def _let_transformers_see_it() -> None:
    """It asks for torchvision too before it believes in timm."""
    utils = importlib.import_module("transformers.utils")
    checks = importlib.import_module("transformers.utils.import_utils")
    checks.BACKENDS_MAPPING["timm"] = (lambda: True, checks.BACKENDS_MAPPING["timm"][1])
    believed, utils.is_timm_available = utils.is_timm_available, lambda: True
    try:
        for part in ("configuration", "modeling"):
            importlib.import_module(f"transformers.models.timm_wrapper.{part}_timm_wrapper")
    finally:
        utils.is_timm_available = believed

"""The small models of every family, from tests/export, for streams."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

_spec = importlib.util.spec_from_file_location(
    "families_for_streams", Path(__file__).parents[2] / "export" / "conftest.py"
)
assert _spec and _spec.loader
_families = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_families)
globals().update({name: each for name, each in vars(_families).items() if name.endswith("_case")})
globals().update({name: vars(_families)[name] for name in ("save", "timm", "export_case")})

FAST = ("smolvlm", "qwen3_vl")
"""One family with plain RoPE and one with M-RoPE: what is tested for every family is tested for these always."""


@pytest.fixture(
    scope="session",
    params=[
        name if name in FAST else pytest.param(name, marks=pytest.mark.slow)
        for name in (*_families.FAST, *_families.SLOW)
    ],
)
def family(request: pytest.FixtureRequest) -> str:
    """Every family in turn."""
    found: str = request.param
    return found


@pytest.fixture(scope="session")
def bundle_of(request: pytest.FixtureRequest, export_case: Callable[[Any], Any]) -> Callable[[str], Any]:
    """The bundle of a family by its name, exported once."""
    pytest.importorskip("transformers")
    bundles: dict[str, Any] = {}

    def bundle_of(name: str) -> Any:
        if name not in bundles:
            bundles[name] = export_case(request.getfixturevalue(f"{name}_case")).bundle
        return bundles[name]

    return bundle_of

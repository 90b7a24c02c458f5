"""What runs a graph: named arrays in and named arrays out."""

from collections.abc import Mapping
from typing import Any, Protocol, TypeAlias, runtime_checkable

from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]


Shape: TypeAlias = tuple[int | str | None, ...]
"""A name or None stands for a size that is only known at run time."""


class Graph(Protocol):
    """`OnnxGraph` here, `TensorRTGraph` in `tensorrt_graph.py`.

    Attributes:
        inputs, outputs: shape of every input and output by name.
        provider: what runs it.
    """

    @property
    def inputs(self) -> Mapping[str, Shape]: ...  # noqa: D102
    @property
    def outputs(self) -> Mapping[str, Shape]: ...  # noqa: D102
    @property
    def provider(self) -> str: ...  # noqa: D102

    def run(self, **inputs: Array) -> dict[str, Array]:
        """Run once; arrays of the graph's own dtypes, a ScoreEdgeError for any others."""
        ...


@runtime_checkable
class CachedGraph(Graph, Protocol):
    """A graph with caches among its inputs (`is_cache`), each of which comes back as the output ``new_...``.

    Caches stay where the graph runs. Several sources share one graph and have a cache each.
    """

    def start(self) -> Any:
        """A cache of a new source."""
        ...

    def run_cached(self, cache: Any, **inputs: Array) -> dict[str, Array]:
        """Run once: `run` with the caches left out on both sides, which are brought up to date if it succeeds."""
        ...

"""What `bundle.json` says, one frozen dataclass per object in it, and what must hold between its numbers."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from score_edge.bundle.int8 import Int8
from score_edge.bundle.provenance import Provenance
from score_edge.core import Grid
from score_edge.errors import ScoreEdgeError

SCHEMA = 1
QUESTION = "{question}"
TOKENS = "{tokens}"
CHANGE_THRESHOLD = 6.0
"""Grey levels, see `Vision.threshold`."""


@dataclass(frozen=True, slots=True)
class FileRef:
    """A file of the bundle. ``FileRef("encoder.onnx")`` is enough to write one: `write_bundle` fills in the rest.

    Attributes:
        file: path relative to the bundle, with forward slashes.
        sha256: hex digest of the content.
        bytes: size of the content.
    """

    file: str
    sha256: str = ""
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class Incremental:
    """The second graph of the encoder, which encodes some cells and has the rest in a cache of keys and values.

    Attributes:
        graph: ONNX; ``patches`` (c, M, patch_values), ``cells`` (c,) and, for each layer, ``keys.0`` and ``values.0``
            (rows, width) to ``tokens`` (c, dim), ``new_keys.0`` and ``new_values.0``. A cell is what yields one token.
        layers: that have a cache.
        rows: of a layer's keys: one per patch, and those of rows that are no patch.
        width: floats per row.
    """

    graph: FileRef
    layers: int
    rows: int
    width: int

    @property
    def caches(self) -> list[str]:
        """Names of the graph's inputs that are caches; of each, ``new_`` in front of it is the output."""
        return [f"{kind}.{layer}" for kind in ("keys", "values") for layer in range(self.layers)]

    @property
    def bytes_per_source(self) -> int:
        """Memory of a source's caches in float32. TensorRT takes twice as much: it writes into others of the source."""
        return 4 * len(self.caches) * self.rows * self.width


@dataclass(frozen=True, slots=True)
class Vision:
    """The vision encoder and how frames are brought into its shape.

    Attributes:
        graph: ONNX; `input_name` of `input_shape` to ``tokens`` (N, dim).
        height: pixels of a frame as the encoder sees it; a multiple of patch * merge where the layout is patches.
        width: as height.
        patch: side of a patch in pixels.
        merge: side, in patches, of the square that becomes one visual token.
        frames_per_step: frames the encoder merges into one step.
        mean: subtracted from RGB in 0..1.
        std: divides what is left.
        resample: name of the interpolation that resizes a frame.
        fps: frames per second to sample from a source.
        dim: D, floats per visual token; with DeepStack the levels stand behind each other.
        grid: visual tokens of one step, (height, width); patches / merge, rounded up.
        layout: ``"patches"`` (P, patch_values), cut as Qwen2-VL does, or ``"pixels"`` (frames_per_step, 3, height,
            width).
        longest_edge: frames are first resized to this longest edge, with their shape kept; None does it in one go.
        letterbox: frames of another shape are not stretched but padded, see `runtime/letterbox.py`.
        newline: .npy (n, dim) float32, rows that close a clip (LLaVA-OneVision's image newline).
        threshold: grey levels; a cell that changed by less since it was last encoded is not encoded again, see
            `runtime/changed_cells.py`. Null where nobody looked for one: see `change_threshold`.
        int8: how the graph was quantised; null where it was not.
        incremental: the second graph; null where a step is encoded as a whole or not at all.
    """

    graph: FileRef
    height: int
    width: int
    patch: int
    merge: int
    frames_per_step: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    resample: Literal["bicubic", "bilinear", "lanczos", "area"]
    fps: float
    dim: int
    grid: tuple[int, int]
    layout: Literal["patches", "pixels"] = "patches"
    longest_edge: int | None = None
    letterbox: bool = False
    newline: FileRef | None = None
    threshold: float | None = None
    int8: Int8 | None = None
    incremental: Incremental | None = None

    @property
    def change_threshold(self) -> float:
        """The threshold, or what is safe without one: a graph that encodes whole steps spares only identical ones."""
        if self.threshold is not None:
            return self.threshold
        return 0.0 if self.incremental is None else CHANGE_THRESHOLD

    @property
    def token_grid(self) -> Grid:
        """The grid as the rest of the pipeline carries it."""
        return Grid(*self.grid)

    @property
    def patches(self) -> int:
        """P, patches of one step."""
        return self.token_grid.tokens * self.merge**2

    @property
    def patch_values(self) -> int:
        """Floats per patch: RGB of every pixel in every frame of the step."""
        return 3 * self.frames_per_step * self.patch**2

    @property
    def input_name(self) -> str:
        """Name of the graph's one input."""
        return self.layout

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of the graph's one input."""
        if self.layout == "patches":
            return self.patches, self.patch_values
        return self.frames_per_step, 3, self.height, self.width


@dataclass(frozen=True, slots=True)
class Selection:
    """The selector used when none is named.

    Attributes:
        name: a selector's name, for example ``"score"``.
        policy: ONNX of the learned policy; ``tokens``, ``previous`` (M, dim) to ``keep`` (M,).
        query: ONNX of one that knows the question: ``background`` (M, dim), too, and ``question`` (1, dim), the mean of
            its words' rows.
        retention: kept / all visual tokens, in (0, 1].
    """

    name: str
    policy: FileRef | None = None
    retention: float = 0.1
    query: FileRef | None = None


@dataclass(frozen=True, slots=True)
class Language:
    """The language model: a GGUF in the bundle, or one elsewhere on this machine.

    Attributes:
        positions: ``"mrope"`` keeps (t, h, w) of kept tokens, ``"plain"`` numbers them through.
        context: tokens that fit.
        dim: floats per embedding row it takes.
        gguf: the file inside the bundle.
        path: absolute path of the file outside, of a split model its first part; exactly one of gguf and path is given.
        parts: name, hash and size of the file at path and of the parts beside it; empty in older bundles, which then
            trust whatever lies there.
        time_scale: M-RoPE time positions per second of video (Qwen2.5-VL); None counts steps.
        trained: positions it was trained on, where the GGUF promises more; a stream starts anew from there.
        adapter: GGUF of a LoRA that llama.cpp adds to the weights, see `score-edge train adapter`.
    """

    positions: Literal["mrope", "plain"]
    context: int
    dim: int
    gguf: FileRef | None = None
    path: str | None = None
    time_scale: float | None = None
    parts: tuple[FileRef, ...] = ()
    trained: int | None = None
    adapter: FileRef | None = None


@dataclass(frozen=True, slots=True)
class Prompt:
    """The text around the visual tokens; `runtime/language/layout.py` fills it in.

    Attributes:
        before: what leads the clip; may hold ``{frames}`` (in words) and ``{duration}`` (H:MM:SS).
        after: what follows it; holds ``{question}`` once.
        step: text around the tokens of each step, with ``{tokens}`` once; may hold ``{number}`` (from 1), ``{seconds}``
            (0.5) and ``{clock}`` (MM:SS). Empty: the clip is one block of tokens.
        between: what stands between two steps.
    """

    before: str
    after: str
    step: str = ""
    between: str = ""


@dataclass(frozen=True, slots=True)
class Manifest:
    """The whole of `bundle.json`.

    Attributes:
        name: what people call this bundle.
        family: the model family, for example ``"qwen2_vl"``.
        extra: other files the graphs need, such as external ONNX weights.
        schema: version of this layout.
    """

    name: str
    family: str
    vision: Vision
    selector: Selection
    language: Language
    prompt: Prompt
    provenance: Provenance
    extra: tuple[FileRef, ...] = ()
    schema: int = SCHEMA

    @property
    def files(self) -> dict[str, FileRef]:
        """Every file of the bundle, by the place in the manifest that names it."""
        incremental = self.vision.incremental
        named = {
            "vision.graph": self.vision.graph,
            "vision.incremental.graph": None if incremental is None else incremental.graph,
            "vision.newline": self.vision.newline,
            "selector.policy": self.selector.policy,
            "selector.query": self.selector.query,
            "language.gguf": self.language.gguf,
            "language.adapter": self.language.adapter,
            **{f"extra[{i}]": ref for i, ref in enumerate(self.extra)},
        }
        return {where: ref for where, ref in named.items() if ref is not None}

    @property
    def encoder_precision(self) -> str:
        """Of the encoder's graph: int8, int8-cpu, fp16 or fp32."""
        if self.vision.int8 is not None:
            return self.vision.int8.form
        return "fp16" if ", fp16, " in self.provenance.source else "fp32"  # as `score-edge export` notes it

    def sealed(self, refs: Mapping[str, FileRef]) -> "Manifest":
        """The same manifest with these in place of its references; those it does not name become ``extra``.

        Args:
            refs: by file name; at least all of `files`.
        """
        newline, gguf, adapter = self.vision.newline, self.language.gguf, self.language.adapter
        policy, query = self.selector.policy, self.selector.query
        incremental = self.vision.incremental
        used = {ref.file for where, ref in self.files.items() if not where.startswith("extra")}
        return dataclasses.replace(
            self,
            vision=dataclasses.replace(
                self.vision,
                graph=refs[self.vision.graph.file],
                incremental=incremental and dataclasses.replace(incremental, graph=refs[incremental.graph.file]),
                newline=newline and refs[newline.file],
            ),
            selector=dataclasses.replace(
                self.selector, policy=policy and refs[policy.file], query=query and refs[query.file]
            ),
            language=dataclasses.replace(
                self.language, gguf=gguf and refs[gguf.file], adapter=adapter and refs[adapter.file]
            ),
            extra=tuple(ref for file, ref in refs.items() if file not in used),
        )

    def check(self) -> None:
        """Raise ScoreEdgeError, naming the place, when the values do not fit together."""
        vision, language = self.vision, self.language
        for where in ("height", "width", "patch", "merge", "frames_per_step", "dim"):
            _expect(getattr(vision, where) > 0, f"vision.{where} must be above 0, not {getattr(vision, where)}")
        _expect(1e-3 <= vision.fps <= 1e3, f"vision.fps must be in [0.001, 1000], not {vision.fps}")
        cell = vision.patch * vision.merge
        _expect(
            min(vision.height, vision.width) >= cell,
            f"vision.height x width = {vision.height} x {vision.width} is less than patch * merge = {cell}",
        )
        _expect(
            vision.layout == "pixels" or vision.height % cell == vision.width % cell == 0,
            f"vision.height x width = {vision.height} x {vision.width} is no multiple of patch * merge = {cell}",
        )
        grid = (-(vision.height // vision.patch // -vision.merge), -(vision.width // vision.patch // -vision.merge))
        _expect(
            vision.grid == grid,
            f"vision.grid is {list(vision.grid)}, but height, width, patch, merge give {list(grid)}",
        )
        _expect(
            vision.longest_edge is None or 0 < vision.longest_edge <= 8192,
            f"vision.longest_edge must be in [1, 8192], not {vision.longest_edge}",
        )
        _expect(
            vision.threshold is None or 0 <= vision.threshold <= 255,
            f"vision.threshold must be in [0, 255], not {vision.threshold}",
        )
        for where in ("layers", "rows", "width") if vision.incremental else ():
            size = getattr(vision.incremental, where)
            _expect(0 < size <= 10**6, f"vision.incremental.{where} must be in [1, 1000000], not {size}")
        _expect(
            all(0 <= value <= 1 for value in vision.mean), f"vision.mean must be in [0, 1], not {list(vision.mean)}"
        )
        _expect(all(value > 0 for value in vision.std), f"vision.std must be above 0, not {list(vision.std)}")
        _expect(
            0 < self.selector.retention <= 1, f"selector.retention must be in (0, 1], not {self.selector.retention}"
        )
        _expect(
            self.selector.name.partition(":")[0] != "score" or self.selector.policy is not None,
            "selector.policy is null, but the selector score runs one",
        )
        _expect(
            (language.gguf is None) != (language.path is None),
            "language needs exactly one of gguf (a file in the bundle) and path (a file elsewhere)",
        )
        _expect(
            language.path is None or Path(language.path).is_absolute(),
            f"language.path must be an absolute path, not {language.path!r}",
        )
        _expect(
            not language.parts or (language.path is not None and language.parts[0].file == Path(language.path).name),
            "language.parts must begin with the file that language.path names",
        )
        for part in language.parts:
            _expect(
                _stays_inside(part.file) and "/" not in part.file,
                f"language.parts names {part.file!r}, which is no file beside language.path",
            )
        _expect(language.context > 0, f"language.context must be above 0, not {language.context}")
        _expect(
            language.trained is None or language.trained > 0,
            f"language.trained must be above 0, not {language.trained}",
        )
        _expect(
            vision.dim == language.dim,
            f"vision.dim is {vision.dim}, but language.dim is {language.dim}: these two models do not belong together",
        )
        _expect(
            language.time_scale is None or (0 < language.time_scale <= 1e3 and language.positions == "mrope"),
            f"language.time_scale is {language.time_scale}, but must be in (0, 1000] and goes with mrope only",
        )
        _expect(self.prompt.after.count(QUESTION) == 1, f"prompt.after must contain {QUESTION} exactly once")
        _expect(
            self.prompt.step.count(TOKENS) == bool(self.prompt.step),
            f"prompt.step must be empty or contain {TOKENS} exactly once",
        )
        for where, ref in self.files.items():
            _expect(
                _stays_inside(ref.file),
                f"{where} names {ref.file!r}, which is no path inside the bundle",
                "use a relative path with forward slashes and without ..",
            )


def _expect(holds: bool, message: str, hint: str = "correct it, or export the bundle again") -> None:
    if not holds:
        raise ScoreEdgeError(f"bundle.json: {message}", hint)


def _stays_inside(file: str) -> bool:
    path = PurePosixPath(file)
    plain = file.isprintable() and "\\" not in file and str(path) == file
    return plain and not path.is_absolute() and ".." not in path.parts and file not in (".", "bundle.json")

"""Where this user keeps TensorRT engines, and which of them this machine may load.

    ~/.cache/score-edge/engines/
        0361ea6e05dd/sm87x16-trt10.3.0-fp16/engine.json     what was built, from what, for what
                                            encoder.engine
                                            incremental.engine
                                            policy.engine
        sm87x16-trt10.3.0.timing            TensorRT's kernel timings, for later builds
        trt10.3.0-0361ea6e05dd.ranges       INT8 ranges that TensorRT found itself, of this encoder

An engine is only good for the GPU and the TensorRT that built it and for the ONNX files it was made of, whose hash
names its folder; none that does not fit is loaded. It is native code, which runs as whoever loads it: so engines never
travel with a bundle, one that lies in a bundle is not looked at, and neither is a folder that others may write.
"""

import dataclasses
import hashlib
import json
import shlex
from dataclasses import dataclass
from pathlib import Path

from score_edge.bundle.external import file_sha256
from score_edge.bundle.folder import REFERENCE, Bundle, GraphName
from score_edge.bundle.record import read_record
from score_edge.bundle.user_cache import private, user_cache
from score_edge.errors import ScoreEdgeError
from score_edge.onnx_files.precision import Precision
from score_edge.runtime.graphs.cuda_driver import Gpu
from score_edge.runtime.graphs.tensorrt_library import short_version

ENGINES = "engines"
RECORD = "engine.json"
_RECORD_LIMIT = 1 << 20


@dataclass(frozen=True, slots=True)
class Engine:
    """One engine.

    Attributes:
        sha256: of the engine, which is the file ``GRAPH.engine`` beside the record.
        onnx: `graph_hash` of the graph it was made of.
        precision: of this graph; a policy stays fp32.
        relative, cosine: worst difference from ONNX Runtime on real frames, see `Difference`.
    """

    graph: GraphName
    sha256: str
    onnx: str
    precision: Precision
    relative: float
    cosine: float


@dataclass(frozen=True, slots=True)
class EngineRecord:
    """The content of `engine.json`: engines that were built together.

    Attributes:
        tensorrt: version that built them, in full.
        gpu: `str(Gpu)` of the GPU that built them.
        precision: that was asked for.
        created: ISO 8601 date and time; of several that fit, the newest is loaded.
        implicit: INT8 by TensorRT's own calibration.
    """

    tensorrt: str
    gpu: str
    precision: Precision
    created: str
    engines: tuple[Engine, ...]
    implicit: bool = False

    def write(self, folder: Path) -> None:
        """Into a folder that holds the engines."""
        (folder / RECORD).write_text(json.dumps(dataclasses.asdict(self), indent=2) + "\n", encoding="utf-8")


def engines_of(bundle: Bundle) -> Path:
    """The folder of all engines that were made of these graphs; it need not exist."""
    key = hashlib.sha256("".join(graph_hash(bundle, graph) for graph in bundle.graphs).encode()).hexdigest()
    return user_cache(ENGINES) / key[:12]


def engine_folder(bundle: Bundle, gpu: Gpu, tensorrt: str, precision: str) -> Path:
    """Where engines of this kind belong."""
    return engines_of(bundle) / f"{gpu.slug}-trt{short_version(tensorrt)}-{precision}"


def timing_cache(gpu: Gpu, tensorrt: str) -> Path:
    """Kernel timings, shared by all bundles and precisions."""
    return user_cache(ENGINES) / f"{gpu.slug}-trt{short_version(tensorrt)}.timing"


def calibration_cache(bundle: Bundle, tensorrt: str) -> Path:
    """The INT8 ranges that a TensorRT found for this encoder; other versions may count otherwise."""
    return user_cache(ENGINES) / f"trt{short_version(tensorrt)}-{graph_hash(bundle, 'encoder')[:12]}.ranges"


def read_records(bundle: Bundle) -> dict[Path, EngineRecord | str]:
    """By folder: its record, or what is wrong with it."""
    records: dict[Path, EngineRecord | str] = {}
    for path in sorted(engines_of(bundle).glob(f"*/{RECORD}")):
        if not all(private(folder) for folder in (path.parent, *path.parent.parents[:3])):
            records[path.parent] = "others may write here: what lies in it is not loaded"
            continue
        try:
            if path.stat().st_size > _RECORD_LIMIT:
                raise ValueError("it is too large")
            document = json.loads(path.read_text(encoding="utf-8"))
            records[path.parent] = read_record(EngineRecord, document, RECORD)
        except (OSError, ValueError, RecursionError, ScoreEdgeError) as error:
            records[path.parent] = f"{RECORD} cannot be read: {error}".splitlines()[0]
    return records


def bundle_name(bundle: Bundle) -> str:
    """What opens a bundle on the command line."""
    return "reference" if bundle.folder == REFERENCE else str(bundle.folder)


def build_command(bundle: Bundle, precision: str | None = None, implicit: bool = False, **others: object) -> str:
    """What makes engines for this machine; `others` are further options by name, None for those that are left out."""
    first = {"video": "FOOTAGE"} if implicit else {"precision": precision}
    given = {**first, **{name: value for name, value in others.items() if value is not None}}
    words = [f" --{name} {shlex.quote(str(value))}" for name, value in given.items() if value is not None]
    return f"score-edge build {bundle_name(bundle)}{' --implicit' if implicit else ''}{''.join(words)}"


def graph_hash(bundle: Bundle, graph: GraphName) -> str:
    """The sha256 of a graph; where weights lie beside graphs, under whatever name, one of both."""
    manifest, path = bundle.manifest, bundle.graphs[graph]
    ref = next(ref for ref in manifest.files.values() if bundle.folder / ref.file == path)
    beside = [extra.sha256 for extra in manifest.extra if not extra.file.endswith(".json")]  # those are reports
    return hashlib.sha256("".join([ref.sha256, *beside]).encode()).hexdigest() if beside else ref.sha256


def incompatible(
    bundle: Bundle, record: EngineRecord, engine: Engine, gpu: str | None, tensorrt: str | None
) -> str | None:
    """Why an engine must not be loaded; None where it may.

    Args:
        gpu: `str(Gpu)` of this machine; None leaves it open.
        tensorrt: version on this machine; None leaves it open.
    """
    if tensorrt is not None and short_version(record.tensorrt) != short_version(tensorrt):
        return f"it was built by TensorRT {record.tensorrt}; here is {tensorrt}"
    if gpu is not None and record.gpu != gpu:
        return f"it was built on {record.gpu}; here is {gpu}"
    if engine.onnx != graph_hash(bundle, engine.graph):
        return f"the bundle's {engine.graph} graph has changed since it was built"
    return None


def find_engine(bundle: Bundle, graph: GraphName, gpu: str, tensorrt: str) -> tuple[Path, EngineRecord] | str:
    """The newest engine of a graph that fits this machine, or in one line why there is none.

    Raises:
        ScoreEdgeError: the engine's content is not what its record says.
    """
    fitting: list[tuple[str, Path, EngineRecord, Engine]] = []
    reasons = []
    for folder, record in read_records(bundle).items():
        if isinstance(record, str):
            reasons.append(f"{folder.name}: {record}")
            continue
        for engine in record.engines:
            if engine.graph == graph:
                reason = incompatible(bundle, record, engine, gpu, tensorrt)
                if reason is None:
                    fitting.append((record.created, folder / f"{graph}.engine", record, engine))
                else:
                    reasons.append(f"{folder.name}: {reason}")
    if not fitting:
        return "; ".join(reasons) or f"no engine of this {graph} was built for this user"
    _, path, record, engine = max(fitting, key=lambda found: found[0])
    if not path.is_file() or file_sha256(path) != engine.sha256:
        raise ScoreEdgeError(
            f"{path} is missing or damaged: its checksum is not the one in {RECORD}",
            build_command(bundle, record.precision, record.implicit),
        )
    return path, record

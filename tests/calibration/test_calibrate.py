"""The whole calibration on the reference bundle, and bad input that leaves nothing behind."""

import dataclasses
import json
import shutil
import subprocess
import sys
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from score_edge.bundle.folder import Bundle, write_bundle
from score_edge.calibration.calibrate import REPORT, Calibration, calibrate_bundle
from score_edge.calibration.frames import read_clips
from score_edge.calibration.quantize import VARIANTS, prepare
from score_edge.core import Frame
from score_edge.errors import ScoreEdgeError
from score_edge.runtime.graphs.onnx_graph import OnnxGraph
from score_edge.runtime.sources.open_source import open_source

onnx = pytest.importorskip("onnx")
FRAMES = 48


@pytest.fixture(scope="module")
def frames() -> list[Frame]:
    with open_source("synthetic://?seed=5") as source:
        return list(islice(source, FRAMES))


@pytest.fixture(scope="module")
def made(frames: list[Frame], tmp_path_factory: pytest.TempPathFactory) -> tuple[Calibration, Bundle]:
    folder = tmp_path_factory.mktemp("made") / "int8"
    report = calibrate_bundle(Bundle.open("reference"), folder, [frames], frames=16, clips=0)
    return report, Bundle.open(folder)


def test_the_bundle_holds_an_int8_encoder_within_the_bound(made) -> None:
    report, bundle = made
    assert report.accuracy.loss <= 0.001
    assert len(report.excluded) < len(report.layers)
    operators = {node.op_type for node in onnx.load(str(bundle.encoder_path)).graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= operators
    assert bundle.manifest.files["vision.graph"].bytes < Bundle.open("reference").manifest.files["vision.graph"].bytes


def test_the_incremental_graph_is_quantised_as_the_plain_one(made) -> None:
    report, bundle = made
    form = report.incremental
    assert form is not None and form.layers == len(report.layers) - len(report.excluded)
    assert form.all_cells.tokens.error == pytest.approx(report.accuracy.tokens.error, rel=1e-3)
    assert 0 < form.encoded < 1 and form.int8.tokens.error >= form.fp32.tokens.error > 0
    assert bundle.incremental_path is not None and bundle.manifest.vision.incremental is not None
    operators = {node.op_type for node in onnx.load(str(bundle.incremental_path)).graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= operators
    graph = OnnxGraph(bundle.incremental_path)
    cells, size = 3, graph.inputs["patches"][1:]
    tokens = graph.run_cached(graph.start(), patches=np.zeros((cells, *size), np.float32), cells=np.arange(cells))
    assert tokens["tokens"].shape == (cells, bundle.manifest.vision.dim)


def test_a_bundle_without_an_incremental_graph_gets_none(frames, tmp_path) -> None:
    reference = Bundle.open("reference")
    manifest = dataclasses.replace(
        reference.manifest, vision=dataclasses.replace(reference.manifest.vision, incremental=None)
    )
    files = {name: path for name, path in reference.paths.items() if name != "incremental.onnx"}
    plain = write_bundle(tmp_path / "plain", manifest, files)
    report = calibrate_bundle(plain, tmp_path / "int8", [frames], frames=16, clips=0)
    assert report.incremental is None and Bundle.open(tmp_path / "int8").incremental_path is None


def test_policy_and_language_model_stay_as_they_are(made) -> None:
    for where in ("selector.policy", "language.gguf"):
        assert made[1].manifest.files[where] == Bundle.open("reference").manifest.files[where]


def test_the_plan_is_in_the_bundle(made) -> None:
    report, bundle = made
    int8 = bundle.manifest.vision.int8
    assert int8 is not None
    assert (int8.form, int8.excluded) == ("int8", tuple(report.excluded))
    assert int8.worst_cosine == pytest.approx(1 - report.accuracy.loss)
    stored = json.loads((bundle.folder / REPORT).read_text())
    assert [layer["name"] for layer in stored["layers"]] == [layer.name for layer in report.layers]
    assert "score-edge calibrate" in bundle.manifest.provenance.source


def test_a_stored_plan_can_be_repeated_by_hand(made, frames, tmp_path) -> None:
    report, bundle = made
    again = calibrate_bundle(
        Bundle.open("reference"), tmp_path / "again", [frames], frames=16, clips=0, exclude=report.excluded, max_loss=2
    )
    assert sorted(again.excluded) == sorted(report.excluded)
    assert Bundle.open(tmp_path / "again").manifest.vision.graph.sha256 == bundle.manifest.vision.graph.sha256


def test_only_these_layers(frames, tmp_path) -> None:
    report = calibrate_bundle(
        Bundle.open("reference"),
        tmp_path / "cpu",
        [frames],
        form="int8-cpu",
        frames=16,
        clips=0,
        only=["*.0.mlp.fc?"],
        max_loss=2,
    )
    quantised = {layer.name for layer in report.layers} - set(report.excluded)
    assert quantised == {"visual.blocks.0.mlp.fc1", "visual.blocks.0.mlp.fc2"}
    assert len(report.candidates) == 4
    encoder = OnnxGraph(Bundle.open(tmp_path / "cpu").encoder_path)
    assert encoder.run(patches=np.zeros((144, 384), np.float32))["tokens"].shape == (36, 192)


@pytest.fixture
def with_convolution(tmp_path: Path) -> Bundle:
    """The reference bundle, its first layer a convolution, as in most published encoders."""
    reference = Bundle.open("reference")
    model = prepare(reference.encoder_path, tmp_path)
    weights = {weight.name: weight for weight in model.graph.initializer}
    gemm = next(node for node in model.graph.node if node.op_type == "Gemm")
    weight = onnx.numpy_helper.to_array(weights[gemm.input[1]])
    weight = weight if any(a.name == "transB" and a.i for a in gemm.attribute) else weight.T
    weights[gemm.input[1]].CopyFrom(onnx.numpy_helper.from_array(weight[..., None, None].copy(), "embed.weight"))
    for name, shape in (("to_image", [0, 0, 1, 1]), ("to_rows", [0, -1])):
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(shape, np.int64), name))
    at = list(model.graph.node).index(gemm)
    before, inside, after = gemm.input[0], "embed_in", gemm.output[0]
    nodes = [
        onnx.helper.make_node("Reshape", [before, "to_image"], [inside], "embed_reshape"),
        onnx.helper.make_node("Conv", [inside, "embed.weight", *gemm.input[2:]], ["embed_out"], "embed"),
        onnx.helper.make_node("Reshape", ["embed_out", "to_rows"], [after], "embed_back"),
    ]
    model.graph.node.remove(gemm)
    for node in reversed(nodes):
        model.graph.node.insert(at, node)
    onnx.checker.check_model(model, full_check=True)
    vision = dataclasses.replace(reference.manifest.vision, incremental=None)
    files = {name: path for name, path in reference.paths.items() if name != "incremental.onnx"}
    files[reference.manifest.files["vision.graph"].file] = model.SerializeToString()
    manifest = dataclasses.replace(reference.manifest, vision=vision)
    return write_bundle(tmp_path / "with_convolution", manifest, files)


def test_a_convolution_is_not_said_to_be_quantised_where_it_is_not(with_convolution, frames, tmp_path) -> None:
    def operators(name: str, **options) -> tuple[Calibration, set[str]]:
        report = calibrate_bundle(
            with_convolution, tmp_path / name, [frames], form="int8-cpu", frames=8, clips=0, max_loss=2, **options
        )
        graph = onnx.load(str(Bundle.open(tmp_path / name).encoder_path)).graph
        return report, {node.op_type for node in graph.node}

    alone, made = operators("alone", only=["embed"])
    assert {row.variant for row in alone.candidates} == {"u8s8", "u8u8"} and "DequantizeLinear" in made
    assert len(alone.excluded) == len(alone.layers) - 1

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(VARIANTS, "int8-cpu", ("dynamic-u8s8",))
        both, made = operators("both", only=["embed", "*.0.mlp.fc1"])
    assert "MatMulInteger" in made and "Conv" in made
    assert {layer.name for layer in both.layers} - set(both.excluded) == {"visual.blocks.0.mlp.fc1"}


def test_nothing_left_to_quantise_is_refused(frames, tmp_path) -> None:
    for options in ({"exclude": ["*"]}, {"only": ["*.0.mlp.fc1"], "exclude": ["*.mlp.*"]}):
        with pytest.raises(ScoreEdgeError, match="leave no layer to quantise") as found:
            calibrate_bundle(Bundle.open("reference"), tmp_path / "new", [frames], frames=8, clips=0, **options)
        assert "visual.blocks.0.mlp.fc1" in found.value.hint and untouched(tmp_path / "new")


@pytest.mark.parametrize(("letterbox", "word"), [(False, "stretched"), (True, "letterboxed")])
def test_frames_of_another_camera_are_resized_and_it_is_said_how(letterbox, word, frames, tmp_path) -> None:
    reference = Bundle.open("reference")
    vision = dataclasses.replace(reference.manifest.vision, letterbox=letterbox, incremental=None)
    manifest = dataclasses.replace(reference.manifest, vision=vision)
    files = {name: path for name, path in reference.paths.items() if name != "incremental.onnx"}
    bundle = write_bundle(tmp_path / "bundle", manifest, files)
    large = [Frame(np.repeat(np.repeat(frame.image, 2, 0), 3, 1), frame.time_s, frame.index) for frame in frames]
    report = calibrate_bundle(
        bundle, tmp_path / "new", [frames, large], frames=8, clips=0, only=["visual.merger.mlp.0"]
    )
    assert any(f"2 sizes (288x192, 96x96) were {word} to 96x96" in note for note in report.notes)


def untouched(folder: Path) -> bool:
    return not folder.exists() or list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"exclude": ["nonsense"]}, "no layer is called 'nonsense'"),
        ({"max_loss": 0.0}, "is no bound"),
        ({"max_loss": 1e-12}, "no layer can be INT8 within a loss of 1e-12"),
    ],
)
def test_options_that_make_no_sense(frames, tmp_path, options, words) -> None:
    with pytest.raises(ScoreEdgeError, match=words):
        calibrate_bundle(Bundle.open("reference"), tmp_path / "x" / "new", [frames], frames=4, clips=0, **options)
    assert untouched(tmp_path / "x")


@pytest.mark.parametrize(
    ("footage", "words"),
    [
        (lambda frames: [], "no frames that fill an encoder step"),
        (lambda frames: [frames[:1]], "no frames that fill an encoder step"),
        (lambda frames: [frames[:2]], "gives 1 encoder step, 10 are needed"),
        (lambda frames: [[Frame(np.zeros_like(f.image), f.time_s, f.index) for f in frames]], "the lens covered"),
    ],
    ids=["none", "one frame", "one step", "black"],
)
def test_footage_that_cannot_calibrate(frames, tmp_path, footage, words) -> None:
    with pytest.raises(ScoreEdgeError) as caught:
        calibrate_bundle(Bundle.open("reference"), tmp_path / "x" / "new", footage(frames))
    assert words in f"{caught.value.message} {caught.value.hint}" and caught.value.hint
    assert untouched(tmp_path / "x")


def test_ctrl_c_leaves_nothing_and_the_older_bundle_as_it_was(made, frames, tmp_path) -> None:
    folder = tmp_path / "x" / "new"
    shutil.copytree(made[1].folder, folder)
    stages = []

    def interrupted(name: str, parts: int | None) -> None:
        stages.append(name)
        if name == "bundle":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        calibrate_bundle(
            Bundle.open("reference"),
            folder,
            [frames],
            frames=8,
            clips=0,
            only=["visual.merger.mlp.0"],
            overwrite=True,
            on_stage=interrupted,
        )
    assert stages[-1] == "bundle" and list((tmp_path / "x").iterdir()) == [folder]
    assert Bundle.open(folder).manifest == made[1].manifest


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path) -> None:
    """Files may not grow beyond 1 MB in this process: the graphs on the way to INT8 are larger."""
    code = (
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))\n"
        "from score_edge.cli import main; main()"
    )
    options = ["--video", "synthetic://?seed=5&steps=32", "-o", str(tmp_path / "x" / "new")]
    done = subprocess.run(
        [sys.executable, "-c", code, "calibrate", "reference", *options], capture_output=True, text=True
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "error: cannot write into" in done.stderr and "hint: free some disk space" in done.stderr
    assert untouched(tmp_path / "x")


def test_an_unreadable_video_leaves_nothing(tmp_path) -> None:
    with pytest.raises(ScoreEdgeError, match="does not exist"):
        calibrate_bundle(Bundle.open("reference"), tmp_path / "x" / "new", read_clips(["nowhere.mp4"], 4))
    assert untouched(tmp_path / "x")


def test_an_int8_bundle_is_not_calibrated_again(made, frames, tmp_path) -> None:
    with pytest.raises(ScoreEdgeError, match="already quantised"):
        calibrate_bundle(made[1], tmp_path / "new", [frames])


def test_the_source_is_not_overwritten(frames, tmp_path) -> None:
    shutil.copytree(Bundle.open("reference").folder, tmp_path / "mine")
    before = (tmp_path / "mine" / "encoder.onnx").read_bytes()
    with pytest.raises(ScoreEdgeError, match="its FP32 encoder would be lost"):
        calibrate_bundle(Bundle.open(tmp_path / "mine"), tmp_path / "mine", [frames], overwrite=True)
    assert (tmp_path / "mine" / "encoder.onnx").read_bytes() == before


def test_a_graph_that_computes_nan(frames, tmp_path) -> None:
    """Weights are finite, the square root of a negative is not."""
    reference = Bundle.open("reference")
    model = onnx.load(str(reference.encoder_path))
    (last,) = (node for node in model.graph.node if "tokens" in node.output)
    last.output[0] = "before_tokens"
    model.graph.node.append(onnx.helper.make_node("Sqrt", ["before_tokens"], ["tokens"], "root"))
    files = {**reference.paths, "encoder.onnx": model.SerializeToString()}
    broken = write_bundle(tmp_path / "broken", reference.manifest, files)
    with pytest.raises(ScoreEdgeError, match="not finite"):
        calibrate_bundle(broken, tmp_path / "new", [frames])
    assert not (tmp_path / "new").exists()

"""A Hugging Face checkpoint, opened without reading a weight: its configs, its chat template, what is wrong with it."""

import contextlib
import copy
import functools
import json
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from score_edge.errors import ScoreEdgeError, require

QUESTION = "\u2e28question\u2e29"  # stands for the question while a chat template is rendered; no template holds it
RESAMPLE = {1: "lanczos", 2: "bilinear", 3: "bicubic"}  # Pillow's numbers
# Beside the number of layers, what else sizes a decoder layer by layer.
_NO_DECODER: dict[str, Any] = {"layer_types": [], "num_kv_shared_layers": 0, "hidden_size_per_layer_input": 0}
DOWNLOAD = ("*.json", "*.jinja", "*.safetensors", "*.txt", "*.model")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on this disk.

    Attributes:
        name: what the user called it.
        folder: where it lies.
        model_type: its family's name in transformers.
    """

    name: str
    folder: Path
    model_type: str

    @staticmethod
    def open(name: str) -> "Checkpoint":
        """Open a folder, or download a hub id into the Hugging Face cache.

        Raises:
            ScoreEdgeError: nothing there, no vision encoder in it, weights missing, cut off or pickled.
        """
        folder = Path(name)
        if not folder.is_dir():
            folder = _download(name)
        _check_config(folder)
        document = _read_json(folder / "config.json")
        if "vision_config" not in document:
            raise ScoreEdgeError(
                f"{name} is a text-only checkpoint: its config.json has no vision_config",
                "give the vision-language checkpoint itself; its GGUF goes to --llm",
            )
        _check_unquantised(name, document)
        _check_weights(folder)
        return Checkpoint(name, folder, str(document.get("model_type", "")))

    @functools.cached_property
    def config(self) -> Any:
        """Its transformers config."""
        with _reading(self.name):
            return require("transformers", "export").AutoConfig.from_pretrained(self.folder)

    @functools.cached_property
    def processing(self) -> dict[str, Any]:
        """Its image processor's settings, its class's defaults filled in, under those of its video processor.

        transformers' video processors need torchvision; their files are read as they are.
        """
        nested = _read_json(self.folder / "processor_config.json", needed=False)
        parts: list[dict[str, Any]] = [{}, {}]
        for part, kind, file in zip(parts, ("image", "video"), ("preprocessor", "video_preprocessor"), strict=True):
            with reading_settings(self.name):  # of two places the one that transformers reads
                part.update(
                    nested.get(f"{kind}_processor") or _read_json(self.folder / f"{file}_config.json", needed=False)
                )
        transformers = require("transformers", "export")
        with _reading(self.name), _quiet(transformers):
            try:
                defaults = transformers.AutoImageProcessor.from_pretrained(self.folder, backend="pil").to_dict()
            except ImportError:  # a class that needs torchvision (LFM2-VL); its files say what is asked for
                defaults = {}
        return {**defaults, **parts[0], **parts[1]}

    def tokenizer(self) -> Any:
        """Its tokenizer, as transformers loads it."""
        with _reading(self.name):
            return require("transformers", "export").AutoTokenizer.from_pretrained(self.folder)

    def chat(self, tokenizer: Any, template: str | None = None, kind: str = "video") -> str:
        """A user's turn with one video (or image) and then `QUESTION`, rendered, up to where the answer begins.

        Args:
            tokenizer: from `tokenizer`.
            template: a Jinja template instead of the checkpoint's own.
            kind: what comes before the question.
        """
        template = template or self._chat_template() or tokenizer.chat_template
        if not template:
            raise ScoreEdgeError(f"{self.name} has no chat template", "add its chat_template.jinja to the folder")
        content = [{"type": kind}, {"type": "text", "text": QUESTION}]
        with _reading(self.name):
            text: str = tokenizer.apply_chat_template(
                [{"role": "user", "content": content}],
                chat_template=template,
                tokenize=False,
                add_generation_prompt=True,
            )
        return text

    def setting(self, key: str, otherwise: Any = None) -> Any:
        """A setting of the processor.

        Raises:
            ScoreEdgeError: it is not there, and there is nothing else to take.
        """
        value = self.processing.get(key)
        if value is None:
            value = otherwise
        if value is None:
            raise ScoreEdgeError(f"{self.name}: its processor's config has no {key}", "the checkpoint is incomplete")
        return value

    @property
    def normalisation(self) -> dict[str, Any]:
        """`mean`, `std` and `resample` as the manifest names them."""
        number = int(self.setting("resample"))
        if number not in RESAMPLE:
            raise ScoreEdgeError(f"{self.name}: its processor resizes with filter {number}", f"known: {RESAMPLE}")
        scale = float(self.setting("rescale_factor", 1 / 255)) if self.setting("do_rescale", True) else 1.0
        if abs(scale * 255 - 1) > 1e-6:
            raise ScoreEdgeError(f"{self.name}: its processor rescales by {scale}, not 1/255")
        mean, std = (0.0,) * 3, (1.0,) * 3
        if self.setting("do_normalize", True):
            mean, std = (self._by_channel(f"image_{name}") for name in ("mean", "std"))
        return {"mean": mean, "std": std, "resample": RESAMPLE[number]}

    def _by_channel(self, key: str) -> tuple[float, float, float]:
        """One number for all of red, green and blue, or one for each, as transformers takes them."""
        value = self.setting(key)
        red, green, blue = (float(x) for x in ([value] * 3 if isinstance(value, (int, float)) else value))
        return red, green, blue

    def load(self, model_class: str) -> Any:
        """The model in float32 with its vision side only: no decoder layer, an embedding table of one row.

        Raises:
            ScoreEdgeError: a weight of the vision side is missing, of the wrong shape, or beyond what its config names.
        """
        transformers = require("transformers", "export")
        torch = require("torch", "export")
        config = copy.deepcopy(self.config)
        text = config.get_text_config()
        text.num_hidden_layers, text.vocab_size, text.pad_token_id = 0, 1, None
        for name, nothing in _NO_DECODER.items():
            if getattr(text, name, None) is not None:
                setattr(text, name, nothing)
        if getattr(config, "audio_config", None) is not None:
            config.audio_config = None
        with _reading(self.name), _quiet(transformers):
            model, report = getattr(transformers, model_class).from_pretrained(
                self.folder,
                config=config,
                dtype=torch.float32,
                use_safetensors=True,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
        decoder, held = (model.get_decoder(), model.get_output_embeddings()), model.state_dict(keep_vars=True)
        text_side = {id(tensor) for part in decoder for tensor in part.state_dict(keep_vars=True).values()}
        vision = {key for key, tensor in held.items() if id(tensor) not in text_side and tensor.is_floating_point()}
        wrong = vision & ({*report["missing_keys"]} | {key for key, *_ in report["mismatched_keys"]})
        if wrong:
            raise ScoreEdgeError(
                f"{self.name}: {len(wrong)} weights of the vision encoder are missing or misshapen, first {min(wrong)}",
                "the checkpoint is incomplete or its config.json is of another model: download it again",
            )
        if beyond := _beyond_config(model, report["unexpected_keys"]):
            raise ScoreEdgeError(
                f"{self.name}: its config.json names fewer layers or biases than it has weights for: "
                f"{len(beyond)} would be left out, first {min(beyond)}",
                "its config.json was changed or is of another model: download it again",
            )
        return model.eval()

    def load_whole(self, model_class: str, dtype: str) -> Any:
        """The model with every weight.

        Args:
            model_class: of transformers.
            dtype: ``"float32"``, or ``"auto"`` for that of the file.

        Raises:
            ScoreEdgeError: a weight is missing or of the wrong shape.
        """
        transformers = require("transformers", "export")
        with _reading(self.name), _quiet(transformers):
            model, report = getattr(transformers, model_class).from_pretrained(
                self.folder,
                config=copy.deepcopy(self.config),
                dtype=dtype,
                use_safetensors=True,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
        if wrong := {*report["missing_keys"]} | {key for key, *_ in report["mismatched_keys"]}:
            raise ScoreEdgeError(
                f"{self.name}: {len(wrong)} weights are missing or misshapen, first {min(wrong)}",
                "the checkpoint is incomplete or its config.json is of another model: download it again",
            )
        return model.eval()

    def _chat_template(self) -> str | None:
        jinja = self.folder / "chat_template.jinja"
        if jinja.is_file():
            return jinja.read_text(encoding="utf-8")
        for file in ("chat_template.json", "processor_config.json"):
            if template := _read_json(self.folder / file, needed=False).get("chat_template"):
                return str(template)
        return None


def _beyond_config(model: Any, unexpected: Iterable[str]) -> list[str]:
    """Of the weights that found no place those of a further layer of the vision side, or of a bias its layers lack.

    Other modules without a place, as a head that is not used, are left out by transformers, too.
    """
    torch = require("torch", "export")
    decoder = {id(module) for module in model.get_decoder().modules()}
    modules = {name: module for name, module in model.named_modules() if id(module) not in decoder}
    lists = tuple(f"{name}." for name, module in modules.items() if isinstance(module, torch.nn.ModuleList))
    biases = {f"{name}.bias" for name, module in modules.items() if getattr(module, "weight", None) is not None}
    return [key for key in unexpected if key in biases or key.startswith(lists)]


def _download(name: str) -> Path:
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise ScoreEdgeError(f"there is no folder {name}", "give a checkpoint's folder or its hub id, OWNER/NAME")
    hub = require("huggingface_hub", "export")
    try:
        return Path(hub.snapshot_download(name, allow_patterns=list(DOWNLOAD)))
    except Exception as error:  # the hub's errors share no base class with those of the network below it
        raise ScoreEdgeError(
            f"cannot download {name}: {first_line(error)}", "check the name and the network, or give a local folder"
        ) from error


def _check_unquantised(name: str, config: dict[str, Any]) -> None:
    """AWQ, GPTQ, bitsandbytes and the like store weights that only their own kernels read."""
    for part in (config, config.get("text_config"), config.get("vision_config")):
        about = part.get("quantization_config") if isinstance(part, dict) else None
        if about:
            method = about.get("quant_method", "unknown") if isinstance(about, dict) else "unknown"
            raise ScoreEdgeError(
                f"{name} is a quantised checkpoint ({method}), whose weights cannot be exported",
                "give the checkpoint it was made from, in 16 or 32 bits; the language model is quantised as a GGUF "
                "(--llm), the encoder by `score-edge calibrate`",
            )


def _check_config(folder: Path) -> None:
    if (folder / "config.json").is_file():
        return
    if (folder / "config.json").is_symlink():
        raise ScoreEdgeError(f"{folder}/config.json is a link to nothing", "download it again, or copy it whole")
    raise ScoreEdgeError(f"{folder} is no checkpoint: it has no config.json", "give the folder that has one")


def _check_weights(folder: Path) -> None:
    """Refuse pickles, missing shards and files that are cut off, before anything is loaded."""
    found = sorted(folder.glob("*.safetensors"))
    index = _read_json(folder / "model.safetensors.index.json", needed=False)
    with reading_settings(str(folder)):
        shards = sorted({str(shard) for shard in index.get("weight_map", {}).values()})
    for shard in shards:
        if not (folder / shard).is_file():
            raise ScoreEdgeError(f"{folder} lacks {shard}, which its index names", "download it again")
    if not found:
        pickled = [path.name for pattern in ("*.bin", "*.pt", "*.pth") for path in sorted(folder.glob(pattern))]
        if pickled:
            raise ScoreEdgeError(
                f"{folder} has its weights as a pickle only ({pickled[0]}), which can run any code when it is read",
                "convert them to safetensors first",
            )
        raise ScoreEdgeError(f"{folder} has no weights: no .safetensors file", "download it again")
    for path in found:
        if not path.is_file():
            raise ScoreEdgeError(f"{path} is a link to nothing", "download it again, or copy the folder with cp -rL")
        _check_length(path)


def _check_length(path: Path) -> None:
    """A safetensors file says in its header how long it is."""
    again = "download it again"
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 0 < length <= size - 8:
            raise ScoreEdgeError(f"{path} is cut off or no safetensors file", again)
        try:
            header = json.loads(file.read(length))
            end = 8 + length + max((v["data_offsets"][1] for k, v in header.items() if k != "__metadata__"), default=0)
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise ScoreEdgeError(f"{path} is damaged: its header cannot be read", again) from error
    if size < end:
        raise ScoreEdgeError(f"{path} is cut off: {size} bytes of {end}", again)


def _read_json(path: Path, *, needed: bool = True) -> dict[str, Any]:
    if not needed and not path.is_file():
        return {}
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ScoreEdgeError(f"{path} cannot be read: {first_line(error)}", "download it again") from error
    if not isinstance(document, dict):
        raise ScoreEdgeError(f"{path} is no JSON object", "download it again")
    return document


@contextlib.contextmanager
def _reading(name: str) -> Iterator[None]:
    """What goes wrong inside transformers while it reads a checkpoint is wrong with the checkpoint."""
    try:
        yield
    except ScoreEdgeError:
        raise
    except Exception as error:  # transformers, safetensors and tokenizers raise all sorts
        raise ScoreEdgeError(
            f"transformers cannot read {name}: {type(error).__name__}: {first_line(error)}",
            "check that the checkpoint is complete and that transformers knows its family",
        ) from error


@contextlib.contextmanager
def reading_settings(name: str) -> Iterator[None]:
    """What is taken from a checkpoint's configs may be missing, or of another kind than transformers writes.

    Raises:
        ScoreEdgeError: it is.
    """
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise ScoreEdgeError(
            f"{name}: its configs lack something, or hold what does not belong there: "
            f"{type(error).__name__}: {first_line(error)}",
            "download it again",
        ) from error


@contextlib.contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """Without the report on the decoder's weights that are left out on purpose, and without progress bars."""
    logging = transformers.utils.logging
    before = logging.get_verbosity()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        logging.enable_progress_bar()


def first_line(error: Exception) -> str:
    """What an error of a library says: its first line, and the next where that one only announces it."""
    first, *more = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return f"{first} {more[0]}" if first.endswith(":") and more else first

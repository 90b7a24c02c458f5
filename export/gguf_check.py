"""Whether a GGUF is the language model of a checkpoint: its shape, its vocabulary and its special tokens say so."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from score_edge.bundle.external import model_parts
from score_edge.errors import ScoreEdgeError, require
from score_edge.export.gguf_decoders import DECODERS

HINT = "convert this checkpoint's own text model with llama.cpp, or give the checkpoint the GGUF was made from"


@dataclass(frozen=True, slots=True)
class Gguf:
    """What a GGUF says about itself.

    Attributes:
        layers: without those behind the model that only draft tokens, as files of Qwen3.5 have one.
        context: tokens it was trained for.
        tokens: its vocabulary by id.
    """

    path: Path
    architecture: str
    width: int
    layers: int
    context: int
    deepstack: int
    tokens: list[str]

    @staticmethod
    def read(path: Path) -> "Gguf":
        """Read the header, and of a split model those of all parts.

        Raises:
            ScoreEdgeError: not there, not a GGUF, cut off, a part missing, or of something that is no language model.
        """
        gguf = require("gguf", "export")
        if not path.is_file():
            raise ScoreEdgeError(f"no model file at {path}", "--llm takes the GGUF of the checkpoint's text model")
        for part in reversed(model_parts(path)):  # the first one, which says what the model is, last
            try:
                fields = gguf.GGUFReader(part).fields
            except Exception as error:  # numpy's and its own errors, whatever a damaged header leads to
                raise ScoreEdgeError(f"{part} is no complete GGUF: {error}", "download or convert it again") from error
        values = {key: fields[key] for key in fields if not key.startswith("tokenizer.ggml.")}
        architecture = str(values["general.architecture"].contents()) if "general.architecture" in values else ""

        def number(name: str, otherwise: int = 0) -> int:
            field = values.get(f"{architecture}.{name}")
            found = otherwise if field is None else field.contents()
            if not isinstance(found, int):
                raise ScoreEdgeError(f"{path} is no complete GGUF: its {name} is {found!r}", "convert it again")
            return found

        tokens = fields["tokenizer.ggml.tokens"].contents() if "tokenizer.ggml.tokens" in fields else None
        if not isinstance(tokens, list) or not number("embedding_length"):
            raise ScoreEdgeError(
                f"{path} is no language model: its architecture is {architecture or 'not named'}",
                "an mmproj file is not needed; give the GGUF of the text model",
            )
        return Gguf(
            path,
            architecture,
            width=number("embedding_length"),
            layers=number("block_count") - number("nextn_predict_layers"),
            context=number("context_length"),
            deepstack=number("n_deepstack_layers"),
            tokens=tokens,
        )


def check_gguf(gguf: Gguf, config: Any, tokenizer: Any) -> None:
    """Refuse a GGUF of another model.

    Args:
        gguf: what it says.
        config: the checkpoint's.
        tokenizer: the checkpoint's.

    Raises:
        ScoreEdgeError: they differ; the message says where.
    """
    text = config.get_text_config()
    if text.model_type not in DECODERS:
        raise ScoreEdgeError(f"llama.cpp's name for the text model {text.model_type!r} is not known here")
    levels = len(getattr(config.vision_config, "deepstack_visual_indexes", None) or ())
    for what, here, there in (
        ("architecture", gguf.architecture, DECODERS[text.model_type].architecture),
        ("hidden size", gguf.width, text.hidden_size),
        ("number of layers", gguf.layers, text.num_hidden_layers),
        ("number of DeepStack levels", gguf.deepstack, levels),
        ("vocabulary size", len(gguf.tokens), text.vocab_size),
    ):
        if here != there:
            raise ScoreEdgeError(
                f"{gguf.path.name} is not the language model of this checkpoint: its {what} is {here}, not {there}",
                HINT,
            )
    for i, token in sorted(tokenizer.added_tokens_decoder.items()):
        # Converters rewrite the spaces of other added tokens.
        if token.special and i < len(gguf.tokens) and gguf.tokens[i] != token.content:
            raise ScoreEdgeError(
                f"{gguf.path.name} is not the language model of this checkpoint: its token {i} is {gguf.tokens[i]!r}, "
                f"not {token.content!r}",
                HINT,
            )

"""The language model of a bundle as torch weights, and whether these are the weights that llama.cpp runs."""

import dataclasses
import hashlib
from typing import Any

import numpy as np
import torch

from score_edge.bundle.folder import Bundle
from score_edge.core import Mask
from score_edge.errors import ScoreEdgeError
from score_edge.export.checkpoint import Checkpoint
from score_edge.export.family import find_family
from score_edge.export.gguf_check import Gguf, check_gguf
from score_edge.learning.frozen_model import FrozenModel
from score_edge.learning.prepared_clip import PreparedClip
from score_edge.learning.reference_bundle import read_reference_decoder
from score_edge.learning.text_decoder import TextDecoder

MOST_DIFFERENCE = 0.25  # of probability; quantisation to four bits moves some hundredths


def without_adapter(bundle: Bundle) -> Bundle:
    """The same bundle with its language model as it was before an adapter was learned."""
    language = dataclasses.replace(bundle.manifest.language, adapter=None)
    return Bundle(bundle.folder, dataclasses.replace(bundle.manifest, language=language))


def open_decoder(bundle: Bundle, checkpoint: str | None, device: str) -> TextDecoder:
    """The decoder of a bundle.

    Args:
        bundle: its family and GGUF are what the weights must be of.
        checkpoint: folder or hub id it was exported from; None reads them from the GGUF of a reference bundle.
        device: cpu, in float32, or cuda, as the checkpoint stores them.

    Raises:
        ScoreEdgeError: there is no checkpoint, or it is of another family, shape or vocabulary.
    """
    language = bundle.manifest.language
    if checkpoint is None:
        if language.gguf is None:
            raise ScoreEdgeError(
                f"a GGUF has no gradient, and {bundle.folder} holds no other weights",
                "name the checkpoint it was exported from, with --checkpoint",
            )
        model: Any = read_reference_decoder(bundle)
        known = language.gguf.sha256
    else:
        opened = Checkpoint.open(checkpoint)
        family = find_family(opened.model_type)
        if family.name != bundle.manifest.family:
            raise ScoreEdgeError(
                f"{checkpoint} is a {family.name}, and {bundle.folder} was exported from a {bundle.manifest.family}",
                "name the checkpoint it was exported from",
            )
        check_gguf(Gguf.read(bundle.gguf_path), opened.config, opened.tokenizer())
        model = opened.load_whole(family.model_class, "float32" if device == "cpu" else "auto")
        files = sorted(opened.folder.glob("*.safetensors"))
        known = " ".join(f"{file.resolve()} {file.stat().st_size} {file.stat().st_mtime_ns}" for file in files)
    fingerprint = hashlib.sha256(known.encode()).hexdigest()[:12]
    keeps = language.positions == "mrope"
    decoder = TextDecoder(model, keeps_positions=keeps, fingerprint=fingerprint, save_memory=device != "cpu")
    decoder.to(device)
    return decoder


@torch.no_grad()
def check_same_model(model: FrozenModel, decoder: TextDecoder, clip: PreparedClip, keep: Mask) -> float:
    """Ask both the same about a clip, and compare how likely they find each token as the first of the answer.

    Args:
        model: the bundle, by llama.cpp.
        decoder: with no adapter, or one that changes nothing yet.
        clip: with its questions.
        keep: (T, N) bool.

    Returns:
        The probability that differs, from 0 to 1, mean over the questions.

    Raises:
        ScoreEdgeError: they are not the same model.
    """
    prompt = model.prompt(clip, keep)
    firsts = np.cumsum([0, *(len(answer) + 1 for answer in prompt.answers[:-1])])
    said = decoder.logits(prompt)[torch.from_numpy(firsts).to(decoder.device)].softmax(-1).cpu()
    deployed = torch.from_numpy(np.stack(model.first_logits(clip, keep))).softmax(-1)
    differs = float((said - deployed).abs().sum(-1).mean() / 2)
    if not differs <= MOST_DIFFERENCE:
        raise ScoreEdgeError(
            f"the checkpoint and {model.bundle.gguf_path.name} answer differently: {differs:.0%} of the probability "
            "of the first word",
            "name the checkpoint that this GGUF was converted from",
        )
    return differs

"""From torch checkpoints to the files a bundle holds: ONNX graphs and GGUF language models. Needs torch."""

from score_edge.errors import require

require("torch", "export")
require("transformers", "export")

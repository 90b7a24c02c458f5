"""Everything that learns: the reference model and the policy. Needs torch."""

from score_edge.errors import require

require("torch", "train")
require("transformers", "train")

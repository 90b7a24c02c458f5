"""Learn a policy that knows the question by regression on saliency maps: no reward and no label."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch.nn import functional

from score_edge.export.query_graph import QueryNetwork
from score_edge.learning.curriculum import Scene
from score_edge.learning.policy_start import normalisation
from score_edge.learning.prepared_clip import PreparedClip
from score_edge.learning.recipe import QueryRecipe
from score_edge.learning.rollouts import generator
from score_edge.learning.saliency import SaliencyMaps, SalientClip
from score_edge.learning.training_loop import Log, Row, training_loop
from score_edge.selection.residual import background_tokens, previous_tokens

NORMALISING = 48  # clips whose tokens the input is normalised by
SHARE = 0.05  # of the tokens: the metrics say how much of the saliency they hold


def query_inputs(clip: PreparedClip) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(T * N, D) float32 tokens, the tokens before them and the background, by the runtime's own definition."""
    tokens = clip.tokens.float().numpy()
    rows = (tokens, previous_tokens(tokens), background_tokens(tokens))
    first, second, third = (torch.from_numpy(part).flatten(0, 1) for part in rows)
    return first, second, third


def new_query(clips: Sequence[SalientClip], recipe: QueryRecipe) -> QueryNetwork:
    """A policy that normalises by these clips and these questions, and knows nothing yet."""
    torch.manual_seed(recipe.seed)
    width = clips[0].clip.tokens.shape[2]
    policy = QueryNetwork(width, recipe.hidden)

    def states() -> Iterator[torch.Tensor]:
        for salient in clips:
            tokens, previous, background = query_inputs(salient.clip)
            yield torch.cat([tokens, tokens - previous, tokens - background], dim=1)

    mean, scale = normalisation(states())
    policy.mean.copy_(mean)
    policy.scale.copy_(scale)
    policy.word_scale.copy_(1 / torch.cat([salient.words for salient in clips]).std())
    return policy


def query_loss(policy: QueryNetwork, salient: SalientClip) -> tuple[torch.Tensor, torch.Tensor]:
    """How far the policy's odds are from the saliency.

    Returns:
        (Q,) cross-entropy in nats of the two as distributions over a clip's tokens (ListNet, Cao et al. 2007), and
        (Q,) how much of the saliency the SHARE of the tokens with the highest odds holds.
    """
    logits = policy.logits(*query_inputs(salient.clip), salient.words[:, None])
    loss = -(salient.saliency * functional.log_softmax(logits, dim=1)).sum(dim=1)
    kept = logits.detach().topk(max(1, round(SHARE * logits.shape[1])), dim=1).indices
    return loss, salient.saliency.gather(1, kept).sum(dim=1)


def train_query(
    folder: Path,
    policy: QueryNetwork,
    maps: SaliencyMaps,
    held: Sequence[Scene],
    learned: Sequence[Scene],
    recipe: QueryRecipe,
    data: str,
    *,
    resume: bool = False,
    on_log: Log = lambda row: None,
) -> None:
    """Run the recipe; the policy is then what it has learned. See `training_loop`.

    `loss` and `share` are the two of `query_loss`, means over an update's questions; `held` and `held_share` the same
    over the clips that are held out.

    Args:
        folder: gets checkpoint.safetensors and metrics.jsonl.
        policy: see `new_query`.
        maps: of all clips, prepared.
        held, learned: clips to measure on and to learn from, see `hold_out`.
        recipe: every number.
        data: the same for the same clips and weights.
        resume: go on from the checkpoint.
        on_log: told what is written to metrics.jsonl.

    Raises:
        ScoreEdgeError: as `training_loop`.
    """

    @torch.no_grad()
    def evaluate() -> Row:
        found = [torch.stack([part.mean() for part in query_loss(policy, maps.read(scene))]) for scene in held]
        loss, share = torch.stack(found).mean(dim=0).tolist()
        return {"held": loss, "held_share": share}

    def update(step: int) -> Row:
        sums = torch.zeros(2)
        for slot in range(recipe.clips):
            stream = generator(recipe.seed, 4, step, slot)
            scene = learned[int(torch.randint(len(learned), (), generator=stream))]
            loss, share = (part.mean() for part in query_loss(policy, maps.read(scene)))
            (loss / recipe.clips).backward()
            sums += torch.stack([loss.detach(), share])
        loss, share = (sums / recipe.clips).tolist()
        return {"loss": loss, "share": share}

    training_loop(folder, policy, recipe, data, update, evaluate, resume=resume, on_log=on_log)

"""Pre-training loss of MVPFormer: predict the next segment's token among others.

InfoNCE (van den Oord et al. 2018, arXiv 1807.03748) as in Carzaniga et al. 2025, arXiv
2506.20354: the prediction of (t, c) has to pick the encoder's token of (t + 1, c) among
negatives, tokens of other places of the batch. What is predicted is an embedding; no signal
can be generated from it.

Departure: the published sampler draws below (B - 1) T C, so that of the last item only the
first token is ever a negative, and fails for a batch of one. Here negatives are uniform
over all valid tokens but the target.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

N_NEGATIVES = 30
TEMPERATURE = 0.1


def contrastive_loss(
    prediction: Float[Tensor, "batch time channel feature"],
    target: Float[Tensor, "batch time channel feature"],
    negatives: Int[Tensor, "batch time channel negative"],
    *,
    valid: Bool[Tensor, "batch time channel"] | None = None,
    temperature: float = TEMPERATURE,
) -> Float[Tensor, ""]:
    """Mean cross-entropy of picking the next token, over all valid pairs of neighbours.

    Parameters
    ----------
    prediction
        Of the network's generative head.
    target
        Tokens of its encoder. The gradient reaches the positives, not the negatives.
    negatives
        For each *target* position, rows of `target` flattened over its first three axes,
        as `draw_negatives` draws them; those of the first segment are not used.
    valid
        Which tokens hold a signal; a pair counts where both its tokens do.

    Raises
    ------
    ValueError
        If no pair is valid.
    """
    logits = contrastive_logits(
        prediction, target, negatives, valid=valid, temperature=temperature
    )
    if not len(logits):
        raise ValueError("no token is followed by a valid one; nothing is to be predicted")
    best = torch.zeros(len(logits), dtype=torch.long, device=logits.device)
    return F.cross_entropy(logits, best)


def contrastive_logits(
    prediction: Float[Tensor, "batch time channel feature"],
    target: Float[Tensor, "batch time channel feature"],
    negatives: Int[Tensor, "batch time channel negative"],
    *,
    valid: Bool[Tensor, "batch time channel"] | None = None,
    temperature: float = TEMPERATURE,
) -> Float[Tensor, "pair candidate"]:
    """Cosine of each prediction with its candidates over the temperature, positive first.

    A negative that equals the positive is no candidate: its logit is -inf. Parameters are
    those of `contrastive_loss`.
    """
    if valid is None:
        valid = torch.ones(target.shape[:3], dtype=torch.bool, device=target.device)
    pairs = valid[:, :-1] & valid[:, 1:]
    predicted = prediction[:, :-1][pairs]
    positive = target[:, 1:][pairs]
    negative = target.detach().flatten(0, 2)[negatives[:, 1:][pairs]]
    same = (negative - positive.detach()[:, None]).norm(dim=-1) < (
        1e-8 + 1e-5 * positive.detach().norm(dim=-1, keepdim=True)
    )
    candidates = torch.cat([positive[:, None], negative], 1)
    cosine = F.cosine_similarity(predicted[:, None], candidates, dim=-1, eps=1e-8)
    return (cosine / temperature).masked_fill(F.pad(same, (1, 0)), -torch.inf)


def draw_negatives(
    valid: Bool[Tensor, "batch time channel"],
    n_negatives: int = N_NEGATIVES,
    *,
    generator: torch.Generator,
    subject: Int[Tensor, " batch"] | None = None,
    same_time: bool = False,
) -> Int[Tensor, "batch time channel negative"]:
    """Negatives of every target, uniform with replacement over the valid tokens but itself.

    Parameters
    ----------
    valid
        Which tokens hold a signal; the others are never negatives.
    subject
        Number of each item's patient: negatives are of other patients only.
    same_time
        Negatives are of the target's own segment of the window only.

    Returns
    -------
    Tensor
        Rows of the tokens flattened over (batch, time, channel); of targets that are not
        valid, row 0.

    Raises
    ------
    ValueError
        If a target has no other token to be told from.
    """
    if subject is not None and same_time:
        raise ValueError("negatives of other patients, or of the same time: not both")
    batch, time, _ = torch.nonzero(valid.cpu(), as_tuple=True)
    token = torch.nonzero(valid.cpu().flatten())[:, 0]
    # Tokens stand in groups; a target's negatives are its group, or all others.
    group = torch.arange(len(token))
    if same_time:
        group = time
    elif subject is not None:
        group = subject.cpu()[batch]
    order = torch.argsort(group, stable=True)
    token, group = token[order], group[order]
    size = torch.bincount(group)
    start, size = (size.cumsum(0) - size)[group, None], size[group, None]
    pool = size - 1 if same_time else len(token) - size
    if (pool < 1).any():
        raise ValueError("a target has no other token to be told from")
    drawn = torch.rand(len(token), n_negatives, generator=generator, dtype=torch.float64)
    drawn = (drawn * pool).long()
    if same_time:
        rank = torch.arange(len(token))[:, None]
        drawn = start + drawn
        drawn += drawn >= rank
    else:
        drawn += size * (drawn >= start)
    negatives = torch.zeros(valid.numel(), n_negatives, dtype=torch.long)
    negatives[token] = token[drawn]
    return negatives.view(*valid.shape, n_negatives).to(valid.device)

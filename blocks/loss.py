"""What training makes small: each loss is one float32 number.

Shape suffixes: K scored places, V vocabulary, M features, R regions, C labels, L words of a label,
W width.
"""

from torch import Tensor
from torch.nn import functional


def weighted_cross_entropy(logits_KV: Tensor, targets_K: Tensor, weight_K: Tensor) -> Tensor:
    """The weighted sum of the cross-entropies at K places.

    It is their mean where each weight is 1 / (targets of the whole batch, over all its parts and
    processes).
    """
    loss_K = functional.cross_entropy(logits_KV.float(), targets_K, reduction="none")
    return (loss_K * weight_K).sum()


def region_words(
    features_MW: Tensor,
    pool_RM: Tensor,
    words_CLW: Tensor,
    word_mask_CL: Tensor,
    target_R: Tensor,
    weight_R: Tensor,
    *,
    temperature: float,
) -> Tensor:
    """How badly regions of pictures point at their labels: contrastive, over the labels given.

    `pool` averages the features of each region, `word_mask` the embedded words of each label;
    `target` is the label of each region, `weight` as in `weighted_cross_entropy`.
    """
    mask_CL1 = word_mask_CL.float()[..., None]
    label_CW = (words_CLW.float() * mask_CL1).sum(1) / mask_CL1.sum(1).clamp(min=1)
    region_RW = pool_RM.float() @ features_MW.float()
    unit_RW, unit_CW = (functional.normalize(x, dim=-1) for x in (region_RW, label_CW))
    return weighted_cross_entropy(unit_RW @ unit_CW.mT / temperature, target_R, weight_R)

"""Lays visual features into the places that the layout reserved for them.

Shape suffixes: B batch, T tokens, D width of the model, M features.
"""

import torch
from torch import Tensor


def splice(embeds_BTD: Tensor, features_MD: Tensor, feature_index_BT: Tensor) -> Tensor:
    """Row `feature_index` of `features` where it is not negative, the embedding elsewhere.

    A gather and a choice: it exports with dynamic sizes, and embeddings that are overwritten get a
    gradient of exactly zero. `features` holds at least one row, even if no place asks for it.
    """
    chosen_BTD = features_MD[feature_index_BT.clamp(min=0)].to(embeds_BTD.dtype)
    return torch.where((feature_index_BT >= 0)[..., None], chosen_BTD, embeds_BTD)

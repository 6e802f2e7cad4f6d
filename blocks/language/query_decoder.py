"""A decoder that also looks at pictures, through learned queries that stand before its text.

InternVL's QLLaMA (Chen et al., 2023, arXiv 2312.14238): blocks of a language model, some of which
have a cross-attention of the queries to a picture. What sees what depends on the use, so masks are
given; cosines and sines are those of the places in the sequence.

Shape suffixes: B sequences, T tokens, Q queries, L tokens of text, S keys a token may see, M
pictures, P tokens of a picture, W width, C width of the pictures, H heads, D head width.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..norms import NORMS
from ..operators import attend, seen
from ..recompute import through
from ..regions import region
from .attention import LayerCache, cache_span, written
from .decoder import DecoderBlock


def causal_mask(length: int, device: torch.device) -> Tensor:
    """[1, T, T]: True where a token may see a key: its own and those before it.

    Text that is padded on the right needs no more: no token sees the padding behind it.
    """
    place_T = torch.arange(length, device=device)
    return (place_T[:, None] >= place_T)[None]


def prefix_mask(queries: int, length: int, device: torch.device) -> Tensor:
    """[1, T, T]: queries see one another, text sees the queries and what stands before it."""
    place_T = torch.arange(queries + length, device=device)
    return ((place_T[:, None] >= place_T) | (place_T < queries))[None]


def joint_mask(queries: int, length: int, last_B: Tensor) -> Tensor:
    """[B, 1, T]: all see the queries and all of the text, up to its `last` token."""
    place_T = torch.arange(queries + length, device=last_B.device)
    return (place_T <= queries + last_B[:, None])[:, None]


def cached_prefix_span(slot_BT: Tensor, first_B: Tensor, queries: int) -> tuple[Tensor, Tensor]:
    """As `prefix_mask`, over a cache and as `cache_span`; the queries take the slots from `first`
    on, and see up to the last of them."""
    behind_B1 = first_B[:, None] + queries
    inside_BT = (slot_BT >= first_B[:, None]) & (slot_BT < behind_B1)
    first_BT, last_BT = cache_span(slot_BT, first_B)
    return first_BT, torch.where(inside_BT, behind_B1 - 1, last_BT)


def tables(length: int, theta: float, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosine and sine, [1, T, D] in float32, of the places 0, 1, ... of a sequence."""
    angle_R = theta ** -(torch.arange(0, width, 2, dtype=torch.float32, device=device) / width)
    place_T = torch.arange(length, dtype=torch.float32, device=device)
    angle_1TD = (place_T[:, None] * angle_R).repeat(1, 2)[None]
    return angle_1TD.cos(), angle_1TD.sin()


class Queries(nn.Module):
    """Learned vectors that stand before a text."""

    def __init__(self, number: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, number, width))

    def forward(self) -> Tensor:
        """[1, Q, W]."""
        return self.weight


class LookAttention(nn.Module):
    """Cross-attention of queries to a picture, a norm before each, no bias anywhere."""

    def __init__(self, width: int, into: int, heads: int, norm: str, eps: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm_q = NORMS[norm](width, eps)
        self.norm_kv = NORMS[norm](into, eps)
        self.q = nn.Linear(width, width, bias=False)
        self.k = nn.Linear(into, width, bias=False)
        self.v = nn.Linear(into, width, bias=False)
        self.o = nn.Linear(width, width, bias=False)

    def forward(self, x_BQW: Tensor, seen_MPC: Tensor, picture_B: Tensor | None = None) -> Tensor:
        """From [B, Q, W] to [B, Q, W]; `picture` says which one each sequence sees, if not its own.

        Keys and values are made once a picture, however many sequences see it.
        """
        seen_MPC = self.norm_kv(seen_MPC)
        q, k, v = (
            project(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for project, x in (
                (self.q, self.norm_q(x_BQW)),
                (self.k, seen_MPC),
                (self.v, seen_MPC),
            )
        )
        if picture_B is not None:
            k, v = k[picture_B], v[picture_B]
        return self.o(attend(q, k, v).transpose(1, 2).flatten(2))


class QueryBlock(DecoderBlock):
    """A block of a decoder; with `into`, its queries look at a picture between its two branches."""

    def __init__(
        self,
        width: int,
        into: int | None,
        heads: int,
        ffn: int,
        act: str,
        norm: str,
        eps: float,
    ) -> None:
        super().__init__(width, heads, heads, width // heads, ffn, act, norm, eps, qkv_bias=False)
        self.cross = None if into is None else LookAttention(width, into, heads, norm, eps)

    def forward(
        self,
        x_BTW: Tensor,
        cos_BTD: Tensor,
        sin_BTD: Tensor,
        seen_BTS: Tensor | None,
        cache: LayerCache | None = None,
        start_B: Tensor | None = None,
        seen_MPC: Tensor | None = None,
        picture_B: Tensor | None = None,
        place_BQ: Tensor | None = None,
    ) -> Tensor:
        """From [B, T, W] to [B, T, W]; `place` says where the queries stand, if they look."""
        q_BHTD, *keys = self.heads(x_BTW, cos_BTD, sin_BTD)
        rest = (seen_BTS, seen_MPC, picture_B, place_BQ)
        return self._looked(x_BTW, q_BHTD, *written(keys, cache, start_B), *rest)

    @region
    def _looked(
        self,
        x_BTW: Tensor,
        q_BHTD: Tensor,
        k: Tensor,
        v: Tensor,
        seen_BTS: Tensor | None,
        seen_MPC: Tensor | None,
        picture_B: Tensor | None,
        place_BQ: Tensor | None,
    ) -> Tensor:
        x_BTW = self.attn(q_BHTD, k, v, seen_BTS, x_BTW)
        if self.cross is not None and seen_MPC is not None:
            assert place_BQ is not None
            place_BQW = place_BQ[..., None].expand(-1, -1, x_BTW.shape[2])
            x_BQW = x_BTW.gather(1, place_BQW)
            x_BQW = x_BQW + self.cross(x_BQW, seen_MPC, picture_B)
            x_BTW = x_BTW.scatter(1, place_BQW, x_BQW)
        return self.mlp(self.norm2(x_BTW), x_BTW)


class QueryBlocks(nn.ModuleList):
    """Blocks one after another, of which the first of every `cross_every` look at a picture."""

    def __init__(
        self,
        depth: int,
        width: int,
        into: int,
        heads: int,
        ffn: int,
        act: str,
        norm: str,
        eps: float,
        cross_every: int,
        theta: float,
    ) -> None:
        super().__init__(
            QueryBlock(width, None if index % cross_every else into, heads, ffn, act, norm, eps)
            for index in range(depth)
        )
        self.head_dim, self.theta = width // heads, theta

    def text(self, x_BLW: Tensor) -> Tensor:
        """Text alone, [B, L, W]: each token sees itself and what stands before it."""
        mask_1LL = causal_mask(x_BLW.shape[1], x_BLW.device)
        return self._run(x_BLW, mask_1LL)

    def queries(self, query_1QW: Tensor, seen_MPC: Tensor) -> Tensor:
        """What the queries become, [M, Q, W], as they see one another and each a picture."""
        query_MQW = query_1QW.expand(seen_MPC.shape[0], -1, -1)
        return self._run(query_MQW, None, seen_MPC, queries=query_1QW.shape[1])

    def joint(
        self, query_1QW: Tensor, seen_MPC: Tensor, x_BLW: Tensor, picture_B: Tensor, last_B: Tensor
    ) -> Tensor:
        """What the queries become, [B, Q, W], where they and the text all see one another."""
        queries, length = query_1QW.shape[1], x_BLW.shape[1]
        x_BTW = torch.cat((query_1QW.expand(x_BLW.shape[0], -1, -1), x_BLW), dim=1)
        mask_B1T = joint_mask(queries, length, last_B)
        x_BTW = self._run(x_BTW, mask_B1T, seen_MPC, picture_B, queries=queries)
        return x_BTW[:, :queries]

    def caption(
        self, query_1QW: Tensor, seen_MPC: Tensor, x_BLW: Tensor, picture_B: Tensor
    ) -> Tensor:
        """What text becomes, [B, L, W], that goes on behind queries which do not see it."""
        queries, length = query_1QW.shape[1], x_BLW.shape[1]
        x_BTW = torch.cat((query_1QW.expand(x_BLW.shape[0], -1, -1), x_BLW), dim=1)
        mask_1TT = prefix_mask(queries, length, x_BLW.device)
        x_BTW = self._run(x_BTW, mask_1TT, seen_MPC, picture_B, queries=queries)
        return x_BTW[:, queries:]

    def begin(
        self,
        query_1QW: Tensor,
        seen_MPC: Tensor,
        x_BTW: Tensor,
        cos_BTD: Tensor,
        sin_BTD: Tensor,
        slot_BT: Tensor,
        first_B: Tensor,
        caches: Sequence[LayerCache],
    ) -> Tensor:
        """As `caption`, [B, T, W], kept in a cache: each sequence holds places for the queries.

        They are the first of its places, from the slot `first` on. Each sequence sees one picture.
        """
        # As many pictures as sequences: said so that a compiler of both sizes knows it.
        batch_B = torch.arange(x_BTW.shape[0], device=x_BTW.device)
        seen_BPC = seen_MPC[batch_B]
        queries = query_1QW.shape[1]
        place_BQ = (first_B - slot_BT[:, 0])[:, None] + torch.arange(queries, device=x_BTW.device)
        place_BQW = place_BQ[..., None].expand(-1, -1, x_BTW.shape[2])
        x_BTW = x_BTW.scatter(1, place_BQW, query_1QW.expand(x_BTW.shape[0], -1, -1))
        seen_BTS = seen(*cached_prefix_span(slot_BT, first_B, queries), caches[0][0])
        rest = (seen_BPC, None, place_BQ)
        for index, block in enumerate(self):
            x_BTW = block(x_BTW, cos_BTD, sin_BTD, seen_BTS, caches[index], slot_BT[:, 0], *rest)
        return x_BTW

    def go_on(
        self,
        x_BTW: Tensor,
        cos_BTD: Tensor,
        sin_BTD: Tensor,
        slot_BT: Tensor,
        first_B: Tensor,
        caches: Sequence[LayerCache],
    ) -> Tensor:
        """What tokens behind those of a cache become: there the queries' keys hold the picture."""
        seen_BTS = seen(*cache_span(slot_BT, first_B), caches[0][0])
        for index, block in enumerate(self):
            x_BTW = block(x_BTW, cos_BTD, sin_BTD, seen_BTS, caches[index], slot_BT[:, 0])
        return x_BTW

    def _run(
        self,
        x_BTW: Tensor,
        mask_BTS: Tensor | None,
        seen_MPC: Tensor | None = None,
        picture_B: Tensor | None = None,
        *,
        queries: int = 0,
    ) -> Tensor:
        batch, length, _ = x_BTW.shape
        device = x_BTW.device
        cos_1TD, sin_1TD = tables(length, self.theta, self.head_dim, device)
        place_BQ = torch.arange(queries, device=device).expand(batch, -1)
        rest = (cos_1TD, sin_1TD, mask_BTS, None, None, seen_MPC, picture_B, place_BQ)
        for block in self:
            x_BTW = through(block, x_BTW, *rest)
        return x_BTW

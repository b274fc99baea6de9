"""torch's multi-head attention with fewer heads than its embedding divides into."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class FewerHeads(nn.MultiheadAttention):
    """Heads of the width that they had, however many are left; arguments and results as in torch's own.

    Attributes:
        num_heads: How many there are.
        head_dim: The width of one, which torch takes for the embedding over the number of heads.
    """

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Outputs, shape (N, L, E), and the weights of the attention, shape (N, L, S), or None."""
        is_batched = query.dim() == 3
        inputs = [self._first(each, is_batched) for each in (query, key, value)]
        q, k, v = (self._heads(each) for each in self._projected(*inputs))
        mask = self._mask(q, k, key_padding_mask, attn_mask)
        dropout = self.dropout if self.training else 0.0
        if need_weights:
            scores = q @ k.mT / math.sqrt(self.head_dim)
            weights = F.dropout((scores if mask is None else scores + mask).softmax(-1), dropout)
            mixed = weights @ v
        else:
            weights, mixed = None, F.scaled_dot_product_attention(q, k, v, mask, dropout)
        out = self._last(self.out_proj(mixed.transpose(1, 2).flatten(2)), is_batched)
        if weights is not None:
            weights = weights.mean(1) if average_attn_weights else weights
            weights = weights if is_batched else weights.squeeze(0)
        return out, weights

    def _first(self, x: Tensor, is_batched: bool) -> Tensor:
        """Examples on the first axis."""
        return (x if self.batch_first else x.transpose(0, 1)) if is_batched else x.unsqueeze(0)

    def _last(self, x: Tensor, is_batched: bool) -> Tensor:
        return (x if self.batch_first else x.transpose(0, 1)) if is_batched else x.squeeze(0)

    def _projected(self, query: Tensor, key: Tensor, value: Tensor) -> list[Tensor]:
        weights = (
            self.in_proj_weight.chunk(3)
            if self.in_proj_weight is not None
            else (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
        )
        biases = (None,) * 3 if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
        q, k, v = (F.linear(*each) for each in zip((query, key, value), weights, biases, strict=True))
        if self.bias_k is not None and self.bias_v is not None:
            k = torch.cat([k, self.bias_k.expand(k.shape[0], 1, -1)], 1)
            v = torch.cat([v, self.bias_v.expand(v.shape[0], 1, -1)], 1)
        if self.add_zero_attn:
            k, v = (torch.cat([each, torch.zeros_like(each[:, :1])], 1) for each in (k, v))
        return [q, k, v]

    def _heads(self, x: Tensor) -> Tensor:
        """(N, L, heads x width) as (N, heads, L, width)."""
        return x.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)

    def _mask(self, q: Tensor, k: Tensor, padding: Tensor | None, mask: Tensor | None) -> Tensor | None:
        """What is added to the scores, broadcast to (N, heads, L, S); keys added by the layer are never masked."""
        parts = []
        if mask is not None:
            parts.append(mask.unflatten(0, (q.shape[0], -1)) if mask.dim() == 3 else mask)
        if padding is not None:
            parts.append(padding.reshape(q.shape[0], 1, 1, -1))
        added = [F.pad(self._added(each, q), (0, k.shape[2] - each.shape[-1])) for each in parts]
        return sum(added[1:], added[0]) if added else None

    @staticmethod
    def _added(mask: Tensor, q: Tensor) -> Tensor:
        if mask.dtype != torch.bool:
            return mask.to(q.dtype)
        return torch.zeros_like(mask, dtype=q.dtype).masked_fill(mask, -math.inf)


def resize_heads_(module: nn.MultiheadAttention) -> None:
    """Bring the number of heads, in place, to agree with the weights."""
    rows = module.out_proj.weight.shape[1]
    if rows != module.num_heads * module.head_dim:
        module.__class__ = FewerHeads
        module.num_heads = rows // module.head_dim
        module._qkv_same_embed_dim = False  # torch's fused kernels take the other width for granted

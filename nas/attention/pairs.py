"""Attention of every place to many others: DANet's position and channel attention, criss-cross, non-local.

Shapes: B images, C channels, H rows, W columns, N = H * W pixels; h hidden channels.
Large N x N matrices are never stored: the softmax over the pixels is torch's fused attention. The linear maps have no
biases, as in the equations. The authors' layers have them: a key's adds the same to all scores of a query, which the
softmax ignores; a query's prefers some keys for all queries alike; a value's adds one vector to every pixel.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas.attention import BLOCKS
from nas.attention.base import BatchNorm, Block
from nas.attention.widths import hidden_width

KERNEL_WIDTH = 32
"""Narrowest head for which torch's fused attention on a CPU is about as quick per channel as for wider ones."""


def as_tokens(x: Tensor) -> Tensor:
    """Return a map (B, C, H, W) as one token for each pixel, (B, N, C); of a channels_last map, a view."""
    # one copy here, or else every matrix product makes its own
    return x.flatten(2).transpose(1, 2).contiguous()


def as_map(tokens: Tensor, like: Tensor) -> Tensor:
    """Return tokens (B, N, C) as a map with the height, width and memory layout of ``like``."""
    y = torch.unflatten(tokens.transpose(1, 2), 2, like.shape[2:])
    # a copy is cheaper than what follows on mixed layouts; channels_last maps need none
    return y.contiguous() if like.is_contiguous() else y


def pooled_tokens(tokens: Tensor, like: Tensor, pool: Callable[..., Tensor], stride: int) -> Tensor:
    """Return the tokens of a map with the height and width of ``like``, pooled; incomplete windows count."""
    if stride == 1:
        return tokens
    # pooled as they lie, channels last: quicker than the map itself, and no second copy
    return as_tokens(pool(torch.unflatten(tokens.transpose(1, 2), 2, like.shape[2:]), stride, ceil_mode=True))


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Return softmax(query key^T) value, without storing the scores where they would be large.

    A scale belongs into the weights of the queries: torch's kernel for CPUs computes the scores once more in its
    backward pass, and a scale that is no power of two is rounded differently there, which maps of large values turn
    into gradients without bounds. What is left is its rounding of large scores: with maps of 10^3 and more the gradient
    is finite but may be off by its own size. The kernel has no second derivative.

    On a CPU, torch's fused kernel wants queries and values of one width, or else stores the scores. Values that are
    narrower are filled up with zeros. Values that are wider are cut into heads, which all have the same queries and
    keys; these are filled up with zeros if they are narrower than the kernel likes. Neither changes the result. Where
    the scores are fewer than what that would add, they are stored. Elsewhere the kernels take any widths that are
    multiples of 8, to which they are filled up.

    Args:
        query: (B, heads, N, h).
        key: (B, heads, M, h).
        value: (B, heads, M, D); D >= h, with one head if D > h.
    """
    if query.device.type not in ("cpu", "meta"):
        return _attend_aligned(query, key, value)
    given, wanted = query.shape[-1], value.shape[-1]
    queries, keys = query.shape[-2], key.shape[-2]
    if query.is_meta or queries * keys <= (queries + keys) * (wanted - given) or given == wanted:
        return F.scaled_dot_product_attention(query, key, value, scale=1.0)
    width = next(w for w in (max(given, KERNEL_WIDTH), wanted) if wanted % w == 0)
    query, key = (F.pad(t, (0, width - given)).expand(-1, wanted // width, -1, -1) for t in (query, key))
    value = torch.unflatten(value, 3, (-1, width)).squeeze(1).transpose(1, 2)
    heads = F.scaled_dot_product_attention(query, key, value, scale=1.0)
    return heads.transpose(1, 2).flatten(2).unsqueeze(1)


def _attend_aligned(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Return the same from heads that are filled up with zeros to multiples of 8, which GPU kernels ask for."""
    q, k, v = (F.pad(t, (0, -t.shape[-1] % 8)) if t.shape[-1] % 8 else t for t in (query, key, value))
    return F.scaled_dot_product_attention(q, k, v, scale=1.0)[..., : value.shape[-1]]


def project(tokens: Tensor, query_key: nn.Linear, value: nn.Linear, gamma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return queries, keys, and values times gamma, by one product; gamma meets the weights rather than the map."""
    hidden = query_key.out_features // 2
    weight = torch.cat((query_key.weight, gamma * value.weight))
    query, key, scaled = torch.split(F.linear(tokens, weight), [hidden, hidden, value.out_features], -1)
    return query, key, scaled


class DANet(Block):
    """Dual attention: every pixel gathers from similar pixels, every channel from similar channels.

    Dual Attention Network for Scene Segmentation; Jun Fu, Jing Liu, Haijie Tian, Yong Li, Yongjun Bao, Zhiwei Fang,
    Hanqing Lu; arXiv 1809.02983, equations 1 to 4, with x as (B, C, N) and q, k (h channels) and v (C) linear in x::

        position = softmax over j(q_i . k_j) v_j                       no 1 / sqrt(h)
        channel  = softmax over j(E_ij) x_j,   E = x x^T                (B, C, C)
        y = x + alpha * position + beta * channel                       alpha = beta = 0 at the start

    In the paper each branch stands between convolutions of its own and has a residual of its own; as a drop-in both
    share one. The authors' code takes softmax(max E - E) in the channel branch, so that the most *dissimilar* channels
    win: ``affinity="dissimilar"``. The entries of E grow with N: on maps of more than a few pixels the paper's softmax
    is one-hot, on the channel itself. ``affinity="mean"`` divides E by N, and is this project's.

    Args:
        channels: C.
        branch: ``both``, ``position`` or ``channel``.
        reduction: h = max(C // reduction, min(4, C)), of queries and keys.
        affinity: ``sum``, ``dissimilar`` or ``mean``; what the softmax of the channel branch sees.
        init: ``paper`` or ``identity``: one and the same, as alpha = beta = 0; torch's start for the rest.

    Raises:
        ValueError: On a value that the table of blocks does not allow.
    """

    def __init__(
        self,
        channels: int,
        *,
        branch: str = "both",
        reduction: int = 8,
        affinity: str = "sum",
        init: str = "paper",
    ) -> None:
        BLOCKS["danet"].check({"branch": branch, "reduction": reduction, "affinity": affinity}, channels)
        super().__init__(init, adds_strength=False)
        self.branch = branch
        self.affinity = affinity
        if branch != "channel":
            hidden = hidden_width(channels, reduction)
            self.query_key = nn.Linear(channels, 2 * hidden, bias=False)
            self.value = nn.Linear(channels, channels, bias=False)
            self.alpha = nn.Parameter(torch.zeros(()))
        if branch != "position":
            self.beta = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        y = x
        if self.branch != "position":
            y = y + self.channel(x)
        if self.branch != "channel":
            y = y + self.position(x)
        return y

    def position(self, x: Tensor) -> Tensor:
        """Return what every pixel gathers from the others, times alpha, (B, C, H, W)."""
        query, key, value = project(as_tokens(x), self.query_key, self.value, self.alpha)
        gathered = attend(query.unsqueeze(1), key.unsqueeze(1), value.unsqueeze(1)).squeeze(1)
        return as_map(gathered, x).to(x.dtype)

    def channel(self, x: Tensor) -> Tensor:
        """Return what every channel gathers from the others, times beta, (B, C, H, W)."""
        rows = x.flatten(2)  # (B, C, N)
        scores = rows @ rows.transpose(1, 2)
        if self.affinity == "mean":
            scores = scores / rows.shape[2]
        elif self.affinity == "dissimilar":
            scores = -scores
        weights = self.beta * scores.softmax(2)  # beta here rather than on the map
        return torch.unflatten((weights.to(x.dtype) @ rows).to(x.dtype), 2, x.shape[2:])


class CCNet(Block):
    """Criss-cross attention: every pixel gathers from its row and its column, R times.

    CCNet: Criss-Cross Attention for Semantic Segmentation; Zilong Huang, Xinggang Wang, Yunchao Wei, Lichao Huang,
    Humphrey Shi, Wenyu Liu, Thomas S. Huang; arXiv 1811.11721, equations 1 and 2, R times with the same weights::

        y_p = x_p + gamma * sum over j of softmax over j(q_p . k_j) v_j      j: row and column of p, p itself once

    gamma = 0 at the start. After R = 2 every pixel has seen every other. The scores are H + W for each pixel instead of
    H W. The authors' code builds a mask of (B W, H, H) in every call, and that on a GPU.

    Args:
        channels: C.
        reduction: h = max(C // reduction, min(4, C)), of queries and keys.
        recurrence: R.
        init: ``paper`` or ``identity``: one and the same, as gamma = 0; torch's start for the rest.

    Raises:
        ValueError: On a value that the table of blocks does not allow.
    """

    def __init__(self, channels: int, *, reduction: int = 8, recurrence: int = 2, init: str = "paper") -> None:
        BLOCKS["ccnet"].check({"reduction": reduction, "recurrence": recurrence}, channels)
        super().__init__(init, adds_strength=False)
        hidden = hidden_width(channels, reduction)
        self.recurrence = recurrence
        self.query_key = nn.Linear(channels, 2 * hidden, bias=False)
        self.value = nn.Linear(channels, channels, bias=False)
        self.gamma = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(self.recurrence):
            x = x + self.gather(x).to(x.dtype)
        return x

    def gather(self, x: Tensor) -> Tensor:
        """Return what every pixel gathers from its row and its column, times gamma, (B, C, H, W)."""
        height, width = x.shape[2:]
        tokens = x.permute(0, 2, 3, 1).contiguous()
        query, key, value = project(tokens, self.query_key, self.value, self.gamma)  # (B, H, W, h or C)
        by_row = query @ key.transpose(2, 3)  # (B, H, W, W)
        columns = query.transpose(1, 2) @ key.permute(0, 2, 3, 1)  # (B, W, H, H)
        # a pixel stands in its row already
        itself = torch.eye(height, dtype=torch.bool, device=x.device)
        by_column = columns.masked_fill(itself, float("-inf")).transpose(1, 2)  # (B, H, W, H)
        weights = torch.cat((by_column, by_row), 3).softmax(3).to(value.dtype)
        column_weights, row_weights = torch.split(weights, [height, width], 3)
        gathered = row_weights @ value + (column_weights.transpose(1, 2) @ value.transpose(1, 2)).transpose(1, 2)
        return gathered.permute(0, 3, 1, 2)


class NonLocal(Block):
    """Non-local block: every pixel gathers from all pixels, embedded-Gaussian version.

    Non-local Neural Networks; Xiaolong Wang, Ross Girshick, Abhinav Gupta, Kaiming He; arXiv 1711.07971, equations 1, 4
    and 6, with theta, phi and g linear, C -> h::

        y_i = sum over j of softmax over j(theta(x_i) . phi(x'_j)) g(x'_j);    z = x + BN(Wz y)

    x' is x after max pooling by ``kv_stride`` (the paper's subsampling, section 3.3; incomplete windows at the border
    count). The weight of the batch normalisation starts at 0, so that z = x. The authors' code also divides the scores
    by sqrt(h): ``scale="sqrt"``.

    Args:
        channels: C.
        reduction: h = max(C // reduction, min(4, C)).
        kv_stride: Pooling of keys and values, in pixels.
        scale: ``none`` for equation 4, ``sqrt`` for the authors' code.
        init: ``paper`` or ``identity``: one and the same, as the normalisation's weight is 0; torch's start for the
            rest, where the authors draw with a standard deviation of 0.01.

    Raises:
        ValueError: On a value that the table of blocks does not allow.
    """

    def __init__(
        self, channels: int, *, reduction: int = 2, kv_stride: int = 2, scale: str = "none", init: str = "paper"
    ) -> None:
        BLOCKS["nonlocal"].check({"reduction": reduction, "kv_stride": kv_stride, "scale": scale}, channels)
        super().__init__(init, adds_strength=False)
        hidden = hidden_width(channels, reduction)
        self.kv_stride = kv_stride
        self.scale = hidden**-0.5 if scale == "sqrt" else 1.0
        self.query = nn.Linear(channels, hidden, bias=False)
        self.key_value = nn.Linear(channels, 2 * hidden, bias=False)
        self.project = nn.Linear(hidden, channels, bias=False)
        self.norm = BatchNorm(channels)
        nn.init.zeros_(self.norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        tokens = as_tokens(x)
        source = pooled_tokens(tokens, x, F.max_pool2d, self.kv_stride)
        key, value = self.key_value(source).unsqueeze(1).chunk(2, 3)
        query = F.linear(tokens, self.scale * self.query.weight).unsqueeze(1)
        gathered = attend(query, key, value).squeeze(1)
        added: Tensor = self.norm(as_map(self.project(gathered), x))
        return x + added.to(x.dtype)

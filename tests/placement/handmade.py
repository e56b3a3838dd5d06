"""Small networks of plain torch that look like timm's to the program. Imported by the tests beside it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTH = 8


class Net(nn.Module):
    """Stem, one stage, and a head that averages: 1/2 of the image, 8 channels."""

    def __init__(self, stage: nn.Module, *, name: str = "stage", width: int = WIDTH) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, WIDTH, 3, stride=2, padding=1)
        self.stage = stage
        self.after: nn.Module | None = None
        self.fc = nn.Linear(width, 5)
        self.feature_info = [{"num_chs": width, "reduction": 2, "module": name}]
        self.default_cfg: dict[str, Any] = {
            "architecture": "handmade",
            "input_size": (3, 16, 16),
            "first_conv": "stem",
            "classifier": "fc",
        }

    def forward(self, x: Tensor) -> Tensor:
        x = self.stage(self.stem(x))
        while not isinstance(x, Tensor):
            x = x[0]
        x = x if self.after is None else self.after(x)
        return self.fc(x.mean((2, 3)))


def conv(width: int = WIDTH, out: int | None = None) -> nn.Conv2d:
    return nn.Conv2d(width, out or width, 3, padding=1)


class Branch(nn.Module):
    """Two convolutions, and a forward that a test gives: it gets the module and its input."""

    def __init__(self, run: Callable[[Any, Tensor], Any], **parts: Any) -> None:
        super().__init__()
        self.conv1, self.bn1, self.conv2, self.bn2 = conv(), nn.BatchNorm2d(WIDTH), conv(), nn.BatchNorm2d(WIDTH)
        for name, part in parts.items():
            setattr(self, name, part)
        self.run = run

    def forward(self, x: Tensor) -> Any:
        return self.run(self, x)

    def both(self, x: Tensor) -> Tensor:
        return self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))


class Drop(nn.Module):
    """Passes its input through in evaluation."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.bernoulli(torch.full((len(x), 1, 1, 1), 0.5)) if self.training else x


class SE(nn.Module):
    def __init__(self, pooled: bool = True) -> None:
        super().__init__()
        self.fc1, self.fc2, self.pooled = nn.Conv2d(WIDTH, 2, 1), nn.Conv2d(2, WIDTH, 1), pooled

    def gate(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.fc2(F.relu(self.fc1(x.mean((2, 3), keepdim=True) if self.pooled else x))))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(x)


class SwappedSE(SE):
    def forward(self, x: Tensor) -> Tensor:
        return F.hardsigmoid(self.gate(x)).expand_as(x) * x


class ECA(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.conv(x.mean((2, 3))[:, None])).reshape(len(x), -1, 1, 1)


class Spatial(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.conv(torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)))


class CBAM(nn.Module):
    """A gate made of two modules that are gates themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.channel, self.spatial = SE(), Spatial()

    def forward(self, x: Tensor) -> Tensor:
        return self.spatial(self.channel(x))


class LayerScale(nn.Module):
    """A gate that does not look at its input."""

    def __init__(self) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((WIDTH, 1, 1), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class GLU(nn.Module):
    """Gates what it has computed, not what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = conv(WIDTH, 2 * WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.conv(x).chunk(2, 1)
        return value * torch.sigmoid(gate)


class Squash(nn.Module):
    """A gate without weights: swish."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(x)


class Iterating(nn.ModuleDict):
    """Runs all its children in turn, as RegNet's stages do."""

    def forward(self, x: Tensor) -> Tensor:
        for child in self.children():
            x = child(x)
        return x


class Dense(nn.ModuleDict):
    """Runs all its children on all that came before, and returns it all, as DenseNet's blocks do."""

    def forward(self, x: Tensor) -> Tensor:
        found = [x]
        for child in self.children():
            found.append(child(torch.cat(found, 1)))
        return torch.cat(found, 1)


class Transformer(nn.Module):
    """Two blocks of one-headed attention on 4x4 patches of 4x4 pixels, and a class token."""

    def __init__(self, pool: str, *, prefix: int = 1) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, WIDTH, 4, stride=4)
        self.token = nn.Parameter(torch.randn(1, prefix, WIDTH))
        self.blocks = nn.Sequential(TokenBlock(), TokenBlock())
        self.fc = nn.Linear(WIDTH, 5)
        self.pool = pool
        self.prefix = prefix
        self.feature_info = [{"num_chs": WIDTH, "reduction": 4, "module": f"blocks.{index}"} for index in range(2)]
        self.default_cfg: dict[str, Any] = {"architecture": "handmade", "input_size": (3, 16, 16), "classifier": "fc"}

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.embed(x).flatten(2).transpose(1, 2)
        tokens = self.blocks(torch.cat([self.token.expand(len(x), -1, -1), tokens], 1))
        pooled = {"token": tokens[:, 0], "mean": tokens[:, self.prefix :].mean(1), "all": tokens.mean(1)}
        return self.fc(pooled[self.pool])


class TokenBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.attn = TokenAttention()
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 16), nn.GELU(), nn.Linear(16, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm(x))
        return x + self.mlp(x)


class TokenAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(*self.qkv(x).chunk(3, -1))

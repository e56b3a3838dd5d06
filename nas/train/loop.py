"""One full training, epoch by epoch, made of timm's parts.

An epoch is a function of the weights, the optimiser and the average before it, of the seed and of its own number: all
random numbers are drawn anew from the last two. That is what lets a killed training go on to the same curve. On a CPU
it is the same to the last bit; a GPU adds up in an order of its own.
"""

from __future__ import annotations

import hashlib
import math
import random
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timm.loss import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from timm.optim import create_optimizer_v2, list_optimizers
from timm.scheduler import create_scheduler_v2
from timm.utils import ModelEmaV3, NativeScaler, dispatch_clip_grad
from torch import Tensor, nn

from nas import placement
from nas.data import Splits
from nas.train import pictures
from nas.train.keeping import Keeper
from nas.train.parallel import Crew
from nas.train.settings import Recipe, TrainingFailed


class Watcher:
    """Is told how a training gets on; this one keeps it to itself."""

    def start(self, name: str, steps: int, done: int) -> None:
        """Hear that a training begins, with so many steps, of which so many are done already."""

    def step(self) -> None:
        """Hear that a step is done."""

    def say(self, words: str) -> None:
        """Hear a line about an epoch, or about the whole."""


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What a full training yields."""

    model: nn.Module
    """The network that is to be tested, in evaluation mode: the moving average, if there is one."""
    epoch: int
    """The epoch whose weights it has."""
    curve: list[dict[str, str]]
    """The epochs, as ``summary.csv`` has them."""


def fit(
    model: nn.Module,
    data: Splits,
    recipe: Recipe,
    *,
    seed: int,
    folder: Path,
    crew: Crew,
    name: str = "training",
    select: str = "last",
    watcher: Watcher | None = None,
) -> Trained:
    """Train a model on the device, in place, from where its folder says that it stands.

    The test split is not touched. After each epoch the training is saved, and validated unless val is trained on.

    Args:
        model: Maps (B, C, H, W) to logits (B, K).
        data: Its train and val are used.
        recipe: How to train.
        seed: Seed of the batch order, the augmentation and dropout.
        folder: Where checkpoints and curve are kept.
        crew: The processes that train together.
        name: What is trained, in words.
        select: ``last``, or ``best`` for the weights of the epoch that is best on val.
        watcher: Is told of it.

    Raises:
        TrainingFailed: If the loss or an output becomes infinite or NaN, or a checkpoint cannot be read.
        ValueError: If timm does not know the optimiser or the augmentation.
    """
    watcher = watcher or Watcher()
    feed = pictures.training_feed(data, recipe, crew)
    steps = len(feed)
    optimizer = make_optimizer(model, recipe)
    ema = ModelEmaV3(model, decay=recipe.ema, use_warmup=True) if recipe.ema else None
    scaler = NativeScaler(device=crew.device.type) if recipe.amp == "float16" else None
    keeper = Keeper(folder, model, optimizer, ema, scaler)
    given_up = crew.agree(keeper.tidy)
    if given_up:
        watcher.say(f"{name}: {given_up}")
    done = keeper.resume()
    stepper = _Stepper(model, crew.wrapped(model), optimizer, ema, scaler, recipe, crew, steps, len(data.classes))
    val = None if recipe.with_val else pictures.plain_feed(data.val, data, recipe, crew)
    watcher.start(name, recipe.epochs * steps, done * steps)
    with _random_numbers_kept():
        for epoch in range(done + 1, recipe.epochs + 1):
            train, judged = _epoch(epoch, feed, val, stepper, seed, crew, watcher)
            if crew.is_first:
                keeper.save(epoch, train, judged, optimizer.param_groups[0]["lr"])
            watcher.say(_line(name, epoch, recipe.epochs, train, judged))
    final = model if ema is None else ema.module
    curve = crew.agree(lambda: keeper.curve)  # for which all wait until the files are written
    chosen = keeper.load_best(final, curve) if select == "best" else recipe.epochs
    return Trained(model=final.eval(), epoch=chosen, curve=curve)


def _epoch(
    epoch: int,
    feed: pictures.Feed,
    val: pictures.Feed | None,
    stepper: _Stepper,
    seed: int,
    crew: Crew,
    watcher: Watcher,
) -> tuple[dict[str, float], dict[str, float]]:
    """Train for an epoch and validate; return what the curve says of both."""
    _seed_all(seed, epoch, crew.rank)
    batches = feed.epoch(_number(seed, epoch) % 2**31)
    with crew.turn():
        started = time.perf_counter()
        loss = crew.mean(stepper.run(epoch, batches, watcher)).item()
        if not math.isfinite(loss):
            raise TrainingFailed(
                f"the loss is {loss} in epoch {epoch}; a lower --lr, --clip-grad 1 or a longer --warmup may help"
            )
        judged = stepper.judged()
        for network in {id(judged): judged, id(stepper.model): stepper.model}.values():
            crew.share_statistics(network)
        found = {}
        if val is not None:
            right = correct(judged, val, stepper.recipe, crew, what=f"on val after epoch {epoch}")
            found["top1"] = sum(right) / len(right)
        return {"loss": loss, "seconds": time.perf_counter() - started}, found


@dataclass(frozen=True)
class _Stepper:
    """All that a step of the training needs."""

    model: nn.Module
    forward: nn.Module
    optimizer: torch.optim.Optimizer
    ema: ModelEmaV3 | None
    scaler: Any
    recipe: Recipe
    crew: Crew
    steps: int
    classes: int

    def judged(self) -> nn.Module:
        """Return the network that is validated and tested."""
        return self.model if self.ema is None else self.ema.module

    def run(self, epoch: int, batches: Iterator[tuple[Tensor, Tensor]], watcher: Watcher) -> Tensor:
        """Train on the batches of an epoch and return the mean loss, (), on the device."""
        recipe = self.recipe
        mix = pictures.mixer(recipe, self.classes)
        criterion = SoftTargetCrossEntropy() if mix is not None else LabelSmoothingCrossEntropy(recipe.smoothing)
        schedule = _schedule(self.optimizer, recipe, self.steps)
        total = torch.zeros((), device=self.crew.device)
        self.model.train()
        for number, (images, labels) in enumerate(batches, (epoch - 1) * self.steps):
            schedule.step_update(number)
            targets = labels
            if mix is not None:
                images, targets = mix(images, labels)
            images = images.contiguous(memory_format=_format(self.model))
            with _autocast(recipe, self.crew.device):
                loss = criterion(self.forward(images), targets)
            self.optimizer.zero_grad()
            self._descend(loss)
            if self.ema is not None:
                self.ema.update(self.model, step=number + 1)
            total += loss.detach()
            watcher.step()
        return total / self.steps

    def _descend(self, loss: Tensor) -> None:
        parameters = list(self.model.parameters())
        if self.scaler is not None:
            self.scaler(loss, self.optimizer, clip_grad=self.recipe.clip_grad, parameters=parameters)
            return
        torch.autograd.backward(loss)
        if self.recipe.clip_grad is not None:
            dispatch_clip_grad(parameters, self.recipe.clip_grad)
        self.optimizer.step()


def make_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """Return timm's optimiser, in which blocks have a learning rate of their own if the recipe says so.

    Raises:
        ValueError: If timm has no such optimiser, or the model no order of layers to decay along.
    """
    known = list_optimizers()
    if recipe.opt.lower() not in known:
        raise ValueError(f"opt must be one of timm's, such as {', '.join(known[:8])}, but got {recipe.opt!r}")
    try:
        made: torch.optim.Optimizer = create_optimizer_v2(
            model, recipe.opt, lr=recipe.lr, weight_decay=recipe.weight_decay, layer_decay=recipe.layer_decay
        )
    except (AttributeError, AssertionError, TypeError) as error:
        raise ValueError(f"timm cannot make {recipe.opt} for {type(model).__name__}: {error}") from error
    if recipe.block_lr_factor == 1:
        return made
    of_blocks = {id(parameter) for block in placement.blocks(model) for parameter in block.parameters()}
    for group in list(made.param_groups):
        inside = [parameter for parameter in group["params"] if id(parameter) in of_blocks]
        if inside:
            outside = [parameter for parameter in group["params"] if id(parameter) not in of_blocks]
            scale = group.get("lr_scale", 1.0) * recipe.block_lr_factor
            group["params"] = outside
            made.add_param_group({**group, "params": inside, "lr_scale": scale})
    made.param_groups[:] = [group for group in made.param_groups if group["params"]]
    return made


def _schedule(optimizer: torch.optim.Optimizer, recipe: Recipe, steps: int) -> Any:
    schedule, _ = create_scheduler_v2(
        optimizer,
        sched=recipe.sched,
        num_epochs=recipe.epochs,
        warmup_epochs=recipe.warmup,
        warmup_lr=recipe.lr / 100,
        decay_epochs=max(1, recipe.epochs // 3),  # of "step", which divides by ten
        decay_rate=0.1 if recipe.sched == "step" else 1.0,  # of "poly" the power: a straight line
        step_on_epochs=False,
        updates_per_epoch=steps,
    )
    return schedule


@torch.no_grad()
def correct(model: nn.Module, feed: pictures.Feed, recipe: Recipe, crew: Crew, *, what: str) -> list[bool]:
    """Return for each image, in the order of its split, whether the model classifies it correctly.

    Raises:
        TrainingFailed: If an output is infinite or NaN; ``what`` says where.
    """
    model.eval()
    right, finite = [], torch.ones((), dtype=torch.bool, device=crew.device)
    for images, labels in feed.epoch(0):
        with _autocast(recipe, crew.device):
            logits = model(images.contiguous(memory_format=_format(model)))
        right.append(logits.argmax(1) == labels)
        finite &= logits.isfinite().all()
    if not crew.mean(finite.float()).item() == 1:
        raise TrainingFailed(f"an output of the network is infinite or NaN {what}")
    found: list[int] = crew.gather(torch.cat(right).to(torch.uint8), feed.count).tolist()
    return [bool(each) for each in found]


def _autocast(recipe: Recipe, device: torch.device) -> torch.autocast:
    dtype = torch.float16 if recipe.amp == "float16" else torch.bfloat16
    return torch.autocast(device.type, dtype=dtype, enabled=recipe.amp != "float32")


def _format(model: nn.Module) -> torch.memory_format:
    """Return the order in memory that a model was built in, as its kernels show it."""
    kernels = (p for p in model.parameters() if p.dim() == 4 and p.shape[1] > 1 and p.shape[2] > 1)
    kernel = next(kernels, None)
    if kernel is not None and not kernel.is_contiguous() and kernel.is_contiguous(memory_format=torch.channels_last):
        return torch.channels_last
    return torch.contiguous_format


def _number(*parts: int) -> int:
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "big")


def _seed_all(seed: int, epoch: int, rank: int) -> None:
    """Draw all random numbers of an epoch anew: timm takes them from torch, from numpy and from Python."""
    number = _number(seed, epoch, rank)
    torch.manual_seed(number % 2**63)
    np.random.seed(number % 2**32)
    random.seed(number)


@contextmanager
def _random_numbers_kept() -> Iterator[None]:
    """Leave the global random states as they were."""
    python, of_numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(python)
        np.random.set_state(of_numpy)


def _line(name: str, epoch: int, epochs: int, train: Mapping[str, float], judged: Mapping[str, float]) -> str:
    accuracy = f", {judged['top1']:.2%} on val" if judged else ""
    return f"{name}: epoch {epoch}/{epochs}, loss {train['loss']:.4f}{accuracy}, {train['seconds']:.1f} s"

"""What every recipe's loop needs: a run that can be cut off and resumed, its log, its learning rate.

OUT/checkpoint.safetensors   the newest state; a run with the same OUT goes on from it
OUT/log.jsonl                one line of JSON a report
OUT/curve.png                the log drawn (with the extra `plot`)
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from refnet.checkpoints.reader import read
from refnet.checkpoints.safetensors_file import write_safetensors
from refnet.errors import DependencyError


@dataclass(frozen=True)
class Schedule:
    """The learning rate by step: a linear rise, then a half cosine to 0, or drops at given shares.

    Attributes:
        peak: the highest rate.
        steps: length of the run.
        warmup: steps of the rise.
        drops: shares of the run after which the rate is divided by 10; empty for the cosine.
        flat: share of the run, from its start, that stays at the peak before the cosine begins.
    """

    peak: float
    steps: int
    warmup: int = 0
    drops: tuple[float, ...] = ()
    flat: float = 0.0

    def __call__(self, step: int) -> float:
        """The rate of step `step`, counted from 0."""
        if step < self.warmup:
            return self.peak * (step + 1) / self.warmup
        if self.drops:
            return self.peak * 0.1 ** sum(step >= share * self.steps for share in self.drops)
        start = max(self.warmup, self.flat * self.steps)
        progress = (step - start) / max(1, self.steps - start)
        return self.peak * 0.5 * (1 + math.cos(math.pi * min(1.0, max(0.0, progress))))


@dataclass
class Run:
    """A training run in folder `out`, which can be cut off at any moment and resumed.

    Attributes:
        module: what is trained.
        optimizer: its rate is set from `schedule` at every step.
        schedule: rate by step, and the number of steps.
        out: the run's folder.
        average: decay of the running average of the weights that is evaluated and released.
        settings: what the run was started with; a resumed run must have the same. Of the schedule, which
            may change when a run is resumed, nothing belongs here.
    """

    module: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    out: Path
    average: float = 0.999
    settings: Mapping[str, Any] = field(default_factory=dict)
    step: int = 0
    averaged: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.out.mkdir(parents=True, exist_ok=True)
        self.averaged = {n: t.detach().clone() for n, t in self.module.state_dict().items()}
        if self.checkpoint.exists():
            self._resume()

    @property
    def checkpoint(self) -> Path:
        return self.out / "checkpoint.safetensors"

    def train(
        self,
        loss: Callable[[int], Tensor],
        *,
        report: Callable[[], Mapping[str, float]],
        report_every: int,
        save_every: int,
        clip: float = 0.0,
        minutes: float | None = None,
    ) -> None:
        """Run to the end of the schedule, or for `minutes`; what was done is saved in both cases.

        Args:
            loss: by step number, a scalar whose backward pass gives the gradients. What it draws
                must follow from the step alone, so that a resumed run equals an uninterrupted one.
            report: figures for the log, of the averaged weights; see `with_average`.
            clip: largest norm of the gradient; 0 for no limit.
        """
        started, since, total = time.monotonic(), self.step, 0.0
        end = math.inf if minutes is None else started + 60 * minutes
        while self.step < self.schedule.steps:
            if time.monotonic() >= end:
                self.save()
                return
            for group in self.optimizer.param_groups:
                group["lr"] = self.schedule(self.step)
            self.module.train()
            self.optimizer.zero_grad(set_to_none=True)
            value = loss(self.step)
            value.backward()  # type: ignore[no-untyped-call]
            if clip:
                nn.utils.clip_grad_norm_(self.module.parameters(), clip)
            self.optimizer.step()
            self._follow()
            total += float(value.detach())
            self.step += 1
            last = self.step == self.schedule.steps
            if self.step % report_every == 0 or last:
                seconds = time.monotonic() - started
                figures = {
                    "loss": total / (self.step - since),
                    "rate": self.schedule(self.step - 1),
                    "seconds_a_step": seconds / (self.step - since),
                    **report(),
                }
                self._write({"step": self.step, **figures})
                started, since, total = time.monotonic(), self.step, 0.0
            if self.step % save_every == 0 or last:
                self.save()

    def _follow(self) -> None:
        """Move the average towards the weights; statistics and counts are taken as they are."""
        decay = min(self.average, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for name, tensor in self.module.state_dict().items():
                mean = self.averaged[name]
                if tensor.is_floating_point():
                    mean.lerp_(tensor, 1 - decay)
                else:
                    mean.copy_(tensor)

    def _write(self, line: Mapping[str, Any]) -> None:
        with open(self.out / "log.jsonl", "a") as file:
            file.write(json.dumps(dict(line)) + "\n")

    def save(self) -> None:
        """Write the checkpoint, whole or not at all."""
        states = {"module": self.module.state_dict(), "averaged": self.averaged}
        tensors = {f"{p}.{n}": tensor for p, own in states.items() for n, tensor in own.items()}
        for number, own in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{number}.{name}": tensor for name, tensor in own.items()}
        arrays = {name: tensor.detach().cpu().numpy() for name, tensor in tensors.items()}
        write_safetensors(
            self.checkpoint, arrays, {"step": str(self.step), "settings": self._told()}
        )

    def _resume(self) -> None:
        saved = read(self.checkpoint)
        if saved.metadata["settings"] != self._told():
            raise SystemExit(
                f"{self.checkpoint} was made with other settings, {saved.metadata['settings']}, than this "
                f"run's, {self._told()}; name another --out, or remove it"
            )
        states: dict[str, dict[str, Tensor]] = {"module": {}, "averaged": {}, "optimizer": {}}
        for path, array in saved.tensors.items():
            part, _, name = path.partition(".")
            states[part][name] = torch.from_numpy(array.copy())
        self.module.load_state_dict(states["module"])
        for name, tensor in states["averaged"].items():
            self.averaged[name].copy_(tensor)
        moments: dict[int, dict[str, Tensor]] = {}
        for path, tensor in states["optimizer"].items():
            number, _, name = path.partition(".")
            moments.setdefault(int(number), {})[name] = tensor
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": moments})
        self.step = int(saved.metadata["step"])
        self._drop_later_lines()

    def _told(self) -> str:
        return json.dumps(dict(self.settings), sort_keys=True)

    def _drop_later_lines(self) -> None:
        """Forget reports of steps that the resumed run will do again."""
        kept = [line for line in read_log(self.out) if line["step"] <= self.step]
        (self.out / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in kept))


def read_log(out: Path) -> list[dict[str, Any]]:
    """The reports of the run in folder `out`."""
    path = out / "log.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def draw_curve(out: Path, metrics: Mapping[str, str]) -> Path | None:
    """Draw loss and `metrics` ({key in the log: label}) by step; None where matplotlib is absent."""
    from refnet.fields.figures import style

    log = read_log(out)
    try:
        figure = style.new_figure(8, 3 + 2 * len(metrics))
    except DependencyError:
        return None
    panels = {"loss": "training loss", **metrics}
    axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for axis, (name, label) in zip(axes, panels.items(), strict=True):
        lines = [line for line in log if name in line]
        axis.plot([line["step"] for line in lines], [line[name] for line in lines])
        axis.set_ylabel(label)
        axis.grid(alpha=0.3)
    axes[-1].set_xlabel("step")
    path = out / "curve.png"
    style.save(figure, path)
    return path

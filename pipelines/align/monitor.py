"""What an alignment run shows of itself: tables, pictures of unseen prompts, TensorBoard."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize

from ...guidance.engine.files import write_text, write_torch
from ..generation import png
from ..generation.grid import layout
from ..rewards.check import Reward
from .settings import AlignSettings

STEPS = ("step", "reward", "loss", "grad_norm", "gradient_calls", "seconds", "cpu_seconds")
MEANS = ("step", "reward", "held_out_reward", "diversity")
PICTURES = ("step", "prompt", "sample", "reward", "held_out_reward", "diversity")


class Monitor:
    """Writes ``log.csv`` (training), ``unseen.csv`` and ``unseen-pictures.csv`` (pictures of unseen
    prompts at fixed seeds), ``samples/`` and TensorBoard's events where it is installed.

    Rewards over-optimise: beside the reward on unseen prompts stand a reward that is never
    trained with and the diversity, the mean of 1 - cosine between pictures of one prompt, in the
    features of the held-out reward, or of the pixels where it has none.

    Args:
        out: the run's folder.
        settings: the run's.
        prompts: the unseen prompts.
        draw: pictures (B, 3, H, W) in [0, 1] of prompts and as many seeds.
        reward: what is trained with.
        held_out: what is not.
        device: of the rewards.
        step: that the run goes on from.
    """

    def __init__(
        self,
        out: Path,
        settings: AlignSettings,
        prompts: Sequence[str],
        draw: Callable[[Sequence[str], Sequence[int]], Tensor],
        reward: Reward,
        held_out: Reward | None,
        *,
        device: torch.device,
        step: int,
    ) -> None:
        self.out, self.settings, self.device = out, settings, device
        self.reward, self.held_out, self._draw = reward, held_out, draw
        self.log_file = _Table(self.out / "log.csv", STEPS, step)
        self.means = _Table(self.out / "unseen.csv", MEANS, step)
        self.pictures = _Table(self.out / "unseen-pictures.csv", PICTURES, step)
        self.prompts = list(prompts[: settings.eval_prompts])
        self.rows = [(p, i) for p in self.prompts for i in range(settings.eval_samples)]
        try:
            from torch.utils.tensorboard import SummaryWriter

            self.board: Any = SummaryWriter(str(self.out / "tensorboard"), purge_step=step + 1)
        except ImportError:
            self.board = None

    def log(self, figures: dict[str, float]) -> None:
        self.log_file.add(figures)
        self._show("train", figures)

    def evaluate(self, step: int) -> None:
        """Draw unseen prompts, score them, keep the picture of them."""
        images = self.draw()
        prompts = [prompt for prompt, _ in self.rows]
        scores = self._scores(self.reward, images, prompts)
        other = self._scores(self.held_out, images, prompts)
        diversity = self._diversity(images)
        for (prompt, sample), a, b, d in zip(
            self.rows, scores, other, diversity.repeat_interleave(self._samples), strict=True
        ):
            self.pictures.add({
                "step": step, "prompt": prompt, "sample": sample, "reward": a.item(),
                "held_out_reward": b.item(), "diversity": d.item(),
            })  # fmt: skip
        means = {
            "step": step, "reward": scores.mean().item(), "held_out_reward": other.mean().item(),
            "diversity": diversity.mean().item(),
        }  # fmt: skip
        self.means.add(means)
        self._show("unseen", means)
        n = self._samples
        cells = [to_pictures(images)[i : i + n] for i in range(0, len(images), n)]
        notes = [[f"{v:.3f}" for v in scores.tolist()[i : i + n]] for i in range(0, len(images), n)]
        heads = [f"step {step}, seed {i}" for i in range(n)]
        sheet = layout(cells, notes, heads, self.prompts)
        png.save(self.out / "samples" / f"step-{step:05d}.png", sheet)
        if step == 0:
            write_torch(self.out / "before.pt", images)

    def compare(self, step: int) -> None:
        """``before-after.png``: the same prompts and seeds, one sample of each."""
        path = self.out / "before.pt"
        if not path.exists():
            return
        before, after = torch.load(path, weights_only=True), self.draw()
        columns: list[str] = []
        cells: list[list[Image.Image]] = [[] for _ in self.prompts]
        notes: list[list[str]] = [[] for _ in self.prompts]
        for name, images in (("before", before), (f"step {step}", after)):
            scores = self._scores(self.reward, images, [p for p, _ in self.rows])
            pictures = to_pictures(images)
            columns += [name] * self._samples
            for row in range(len(self.prompts)):
                part = slice(row * self._samples, (row + 1) * self._samples)
                cells[row] += pictures[part]
                notes[row] += [f"{value:.3f}" for value in scores[part].tolist()]
        png.save(self.out / "before-after.png", layout(cells, notes, columns, self.prompts))

    def draw(self) -> Tensor:
        """Pictures of the unseen prompts at their seeds, (N, 3, H, W) on the host."""
        images, size = [], self.settings.batch_size
        for start in range(0, len(self.rows), size):
            prompts, seeds = zip(*self.rows[start : start + size], strict=True)
            images.append(self._draw(prompts, seeds).float().cpu())
        return torch.cat(images)

    @property
    def _samples(self) -> int:
        return self.settings.eval_samples

    @torch.no_grad()
    def _scores(self, reward: Reward | None, images: Tensor, prompts: list[str]) -> Tensor:
        """(N,) on the host; nan without a reward."""
        if reward is None:
            return torch.full((len(images),), torch.nan)
        size, device = self.settings.batch_size, self.device
        return torch.cat([
            reward(images[i : i + size].to(device), prompts[i : i + size]).float().cpu()
            for i in range(0, len(images), size)
        ])  # fmt: skip

    @torch.no_grad()
    def _diversity(self, images: Tensor) -> Tensor:
        """(prompts,); nan where there is one picture of each."""
        n = self._samples
        if n == 1:
            return torch.full((len(self.prompts),), torch.nan)
        features = getattr(self.held_out, "features", None)
        if features is not None:
            values = features(images.to(self.device)).float().cpu()
        else:
            values = images.flatten(1) - 0.5
        values = normalize(values, dim=1).view(len(self.prompts), n, -1)
        pairs = (values @ values.mT).sum(dim=(1, 2)) - n
        return 1 - pairs / (n * (n - 1))

    def _show(self, group: str, figures: dict[str, float]) -> None:
        if self.board is not None:
            for name, value in figures.items():
                if name != "step":
                    self.board.add_scalar(f"{group}/{name}", value, figures["step"])


class _Table:
    """A CSV that a resumed run goes on with: rows after the step it resumes at are dropped."""

    def __init__(self, path: Path, columns: tuple[str, ...], step: int) -> None:
        self.path, self.columns = path, columns
        rows = []
        if path.exists():
            with open(path, newline="", encoding="utf-8") as file:
                rows = [row for row in csv.DictReader(file) if int(row["step"]) <= step]
        text = io.StringIO()
        writer = csv.DictWriter(text, columns)
        writer.writeheader()
        writer.writerows(rows if step else [])
        write_text(path, text.getvalue())

    def add(self, row: dict[str, Any]) -> None:
        try:
            with open(self.path, "a", newline="", encoding="utf-8") as file:
                csv.DictWriter(file, self.columns).writerow(row)
        except OSError as error:
            raise OSError(f"{self.path} cannot be written ({error.strerror or error})") from None


def to_pictures(images: Tensor) -> list[Image.Image]:
    """(N, 3, H, W) in [0, 1] as PIL pictures."""
    arrays = (images.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy()
    return [Image.fromarray(array) for array in arrays]

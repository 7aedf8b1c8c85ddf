"""What guidance does to a model on one list of noise levels: what ``guiders profile`` measures."""

from __future__ import annotations

import base64
import bisect
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from ..engine.config import reject
from ..engine.files import write_text
from ..engine.levels import Level, Step
from ..engine.reference import Negative, Reference

FORMAT = "guiders profile 1"
LEVELS = (0.0, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 1.0)  # of the quantiles over prompts
SPACES = ("x0", "eps")
DIGITS = {"sigma": 6, "effective": 6, "cosine": 5, "cosine_eps": 5}  # of numbers; 3 of others
EXACT = ("facts", "guider", "references", "scale")  # what is compared


@dataclass
class Gap:
    """One difference of predictions, D_c minus a reference's, along a track of T evaluations.

    Attributes:
        size: (T, levels) root mean square over elements, quantiles over prompts.
        disagreement: by space, (T, levels) of 1 - the largest cosine of the two so far.
        cosine, cosine_eps, parallel, norm_ratio: (T) means over prompts of what ``Diagnosis``
            says, and ``spread``, by those names, (T) their standard deviations.
    """

    size: Tensor
    disagreement: dict[str, Tensor]
    cosine: Tensor
    cosine_eps: Tensor
    parallel: Tensor
    norm_ratio: Tensor
    spread: dict[str, Tensor]


@dataclass
class Track:
    """What was seen along the way of one guider at one scale.

    Attributes:
        guider: ``type``, ``reference`` and ``scale`` of the term.
        effective: its effective scale, the mean over evaluations and prompts.
        prompts: how many.
        size: (T) root mean square over elements of D_c, mean over prompts.
        references: their JSON forms, in the order of ``gaps``.
        gaps: D_c minus each reference.
        products: (n T, n T) mean cosines of all D_c, then of all gaps of each reference, with
            each other: n is 1 and the number of gaps.
    """

    guider: Any
    effective: float
    prompts: int
    size: Tensor
    references: list[Any]
    gaps: list[Gap]
    products: Tensor

    def gap(self, reference: Reference) -> Gap | None:
        """The one of a reference, where it was measured."""
        key = reference_key(reference)
        return self.gaps[self.references.index(key)] if key in self.references else None


@dataclass
class Effect:
    """What guidance does to the picture, in parts of the way from unguided to fully guided.

    All of it is the root mean square over pixels and prompts, CFG at ``scale``.

    Attributes:
        scale: of the CFG.
        prompts: how many.
        total: the whole way, in parts of the range of a pixel.
        edges: (G + 1) the evaluations at which the groups begin, and the end.
        alone: (G) how far the picture is off without guidance in one group.
        before, after: (G + 1) how far it is off without guidance before an edge, and after it.
        colour: by name what ``guiders.evals`` measures of colours: unguided, and guided.
        x0: by name the same of the clean image of the last evaluation of each group, (G).
    """

    scale: float
    prompts: int
    total: float
    edges: list[int]
    alone: list[float]
    before: list[float]
    after: list[float]
    colour: dict[str, list[float]] = field(default_factory=dict)
    x0: dict[str, list[float]] = field(default_factory=dict)

    def kept(self, first: int, last: int) -> float:
        """The share of the effect where only the evaluations ``first`` to ``last`` are guided.

        What is lost before and after is at right angles, as far as we have seen.
        """
        lost_before = between(first, self.edges, self.before)
        lost_after = between(last + 1, self.edges, self.after)
        return 1 - math.hypot(lost_before, lost_after)


@dataclass(eq=False, repr=False)
class Profile:
    """A model measured on one list of noise levels.

    Attributes:
        facts: what it was measured on, for people and for comparing: ``model``, ``network``,
            ``scheduler``, ``num_inference_steps``, ``latents`` (the shape of one image's),
            ``negative_prompt``, ``prompts_sha256`` and so on.
        sigma: (T) the noise levels, in EDM's unit.
        stage: (T) 0 for the first evaluation of a solver step, above for further ones.
        tracks: by guider and scale.
        effects: by scale.
        cost: evaluations that it took, in parts of those of plain runs of its prompts.
    """

    facts: dict[str, Any]
    sigma: list[float]
    stage: list[int]
    tracks: list[Track]
    effects: list[Effect]
    cost: float

    def __repr__(self) -> str:
        facts, scales = self.facts, ", ".join(f"{scale:g}" for scale in self.scales)
        return (
            f"Profile of {facts['model']}, {facts.get('num_inference_steps')} steps of "
            f"{facts.get('scheduler')}, CFG at {scales}"
        )

    @property
    def numel(self) -> int:
        """Elements of one image's latents."""
        return math.prod(self.facts["latents"])

    @property
    def scales(self) -> list[float]:
        """The scales of CFG that were measured."""
        return [effect.scale for effect in self.effects]

    @property
    def steps(self) -> list[Step]:
        """Its evaluations, with levels of ``alpha = 1``."""
        levels = [Level(0, 1) if math.isinf(s) else Level(1, s) for s in self.sigma]
        following = [*levels[1:], None]
        return [
            Step(index, len(levels), stage, level, after)
            for index, (stage, level, after) in enumerate(
                zip(self.stage, levels, following, strict=True)
            )
        ]

    def is_of(self, sigma: Sequence[float]) -> bool:
        """Are these its noise levels?"""
        return len(sigma) == len(self.sigma) and all(map(_alike, self.sigma, sigma))

    def check(self, steps: Sequence[Step], latents: Sequence[int] | None = None) -> None:
        """Is it of a run like this?

        Raises:
            ValueError: noise levels or latents are others.
        """
        here = [step.sigma for step in steps]
        if not self.is_of(here) or [step.stage for step in steps] != self.stage:
            raise self._other("noise levels", _ends(here), _ends(self.sigma))
        mine = list(self.facts["latents"])
        if latents is not None and list(latents) != mine:
            raise self._other("latents", tuple(latents), str(tuple(mine)))

    def _other(self, what: str, here: Any, there: str) -> ValueError:
        return ValueError(
            f"profile: the run's {what} are {here}; allowed for this profile of "
            f"{self.facts['model']} is {there}; measure another with `guiders profile`, the run's "
            "model, scheduler, steps and size"
        )

    def save(self, path: str | Path) -> None:
        """Write a JSON file; a kill at any moment leaves the old one or the new one."""
        data = {"format": FORMAT, **_plain(asdict(self))}
        text = json.dumps(data, separators=(",", ":"), allow_nan=False) + "\n"
        write_text(Path(path), text)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what ``save`` wrote.

        Raises:
            ValueError: the file cannot be read, or is not one of these.
        """
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
            if not isinstance(data, dict) or data.pop("format", "") != FORMAT:
                raise ValueError("it was not written by `guiders profile`")
            return cls._from_json(data)
        except (OSError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError,
                RuntimeError) as error:  # fmt: skip
            allowed = f"a file written by `guiders profile` ({error})"
            raise reject("Profile", "path", str(path), allowed) from None

    @classmethod
    def _from_json(cls, data: dict[str, Any]) -> Self:
        tracks = [
            Track(
                **{k: one[k] for k in ("guider", "effective", "prompts", "references")},
                size=_tensor(one["size"]),
                gaps=[_gap(gap) for gap in one["gaps"]],
                products=_square(one["products"]),
            )
            for one in data["tracks"]
        ]
        profile = cls(
            data["facts"], [math.inf if s is None else float(s) for s in data["sigma"]],
            data["stage"], tracks, [Effect(**one) for one in data["effects"]], data["cost"],
        )  # fmt: skip
        if not profile._is_whole():
            raise ValueError("its parts do not belong together")
        return profile

    def _is_whole(self) -> bool:
        """Has it all that is read from it? It may be a stranger's file."""
        count, facts = len(self.sigma), self.facts
        rows, spread = (count, len(LEVELS)), ("cosine", "cosine_eps", "parallel", "norm_ratio")
        fine = [
            min(count, len(self.effects), len(self.tracks)) > 0,
            len(self.stage) == count,
            all(isinstance(stage, int) for stage in self.stage),
            all(sigma >= 0 for sigma in self.sigma),
            math.isfinite(self.cost),
            0 < self.numel < 1e15,
            all(isinstance(size, int) and size > 0 for size in facts["latents"]),
            all(isinstance(facts[name], int) for name in ("num_inference_steps", "prompts")),
            # they are shown on a terminal
            all(facts[name].isprintable() for name in ("model", "pipeline", "scheduler")),
        ]
        for track in self.tracks:
            side = count * (1 + len(track.gaps))
            fine += [
                {"type", "reference", "scale"} <= track.guider.keys(),
                math.isfinite(track.effective) and track.prompts > 0,
                len(track.references) == len(track.gaps),
                NEGATIVE_KEY in track.references,
                track.size.shape == (count,) and _is_size(track.size),
                track.products.shape == (side, side),
            ]
            for gap in track.gaps:
                fine += [gap.size.shape == rows, _is_size(gap.size)]
                fine += [gap.disagreement[space].shape == rows for space in SPACES]
                fine += [_is_size(gap.disagreement[space]) for space in SPACES]
                fine += [getattr(gap, name).shape == (count,) for name in spread]
                fine += [gap.spread[name].shape == (count,) for name in spread]
        for effect in self.effects:
            edges, numbers = effect.edges, [*effect.alone, *effect.before, *effect.after]
            fine += [
                effect.scale > 1 and effect.prompts > 0 and math.isfinite(effect.total),
                (edges[0], edges[-1]) == (0, count) and edges == sorted(edges),
                len(effect.before) == len(effect.after) == len(edges) == len(effect.alone) + 1,
                effect.before[0] == effect.after[-1] == 0,
                all(math.isfinite(number) for number in numbers),
                all(math.isfinite(a + b) for a, b in effect.colour.values()),
                all(math.isfinite(sum(values)) for values in effect.x0.values()),
            ]
        return all(fine)


def reference_key(reference: Reference) -> Any:
    """The JSON form of a reference; where it has none, as of a network, it is like no other."""
    try:
        return reference.to_dict()
    except ValueError:
        return f"{reference}, {id(getattr(reference, 'model', reference))}"


NEGATIVE_KEY = reference_key(Negative())


def _is_size(values: Tensor) -> bool:
    return bool(((values >= 0) & values.isfinite()).all())


def _alike(one: float, other: float) -> bool:
    return one == other or math.isclose(one, other, rel_tol=2e-3, abs_tol=1e-6)


def _ends(sigma: Sequence[float]) -> str:
    return f"{len(sigma)} evaluations from {sigma[0]:.4g} to {sigma[-1]:.4g}" if sigma else "none"


def between(at: float, xs: Sequence[float], ys: Sequence[float]) -> float:
    """The value at a place, linear between those at ascending places and constant beyond."""
    right = bisect.bisect_right(xs, at)
    if right in (0, len(xs)):
        return ys[0] if right == 0 else ys[-1]
    a, b, u, v = xs[right - 1], xs[right], ys[right - 1], ys[right]
    return u + (v - u) * (at - a) / (b - a)


def _gap(data: Mapping[str, Any]) -> Gap:
    by_name = ("disagreement", "spread")
    read: dict[str, Any] = {
        key: {name: _tensor(rows) for name, rows in value.items()}
        if key in by_name
        else _tensor(value)
        for key, value in data.items()
    }
    return Gap(**read)


def _tensor(values: Any) -> Tensor:
    """Numbers from JSON, ``null`` as nan."""
    if values and isinstance(values[0], list):
        return torch.stack([_tensor(row) for row in values])
    return torch.tensor([math.nan if v is None else v for v in values], dtype=torch.float64)


def _square(text: str) -> Tensor:
    """The inverse of ``_triangle``."""
    values = torch.frombuffer(bytearray(base64.b64decode(text, validate=True)), dtype=torch.int8)
    size = (1 + math.isqrt(1 + 8 * len(values))) // 2
    matrix = torch.eye(size, dtype=torch.float64)
    rows, columns = torch.tril_indices(size, size, -1)
    matrix[rows, columns] = matrix[columns, rows] = values.double() / 127
    return matrix


def _plain(value: Any, digits: int = 3) -> Any:
    """As JSON: numbers in few digits, ``null`` where not finite, and what is compared as it is."""
    if isinstance(value, dict):
        return {
            key: item
            if key in EXACT
            else _triangle(item)
            if key == "products"
            else _plain(item, DIGITS.get(key, digits))
            for key, item in value.items()
        }
    if isinstance(value, Tensor):
        return _plain(value.tolist(), digits)
    if isinstance(value, (list, tuple)):
        return [_plain(item, digits) for item in value]
    if isinstance(value, float):
        return float(f"{value:.{digits}g}") if math.isfinite(value) else None
    return value


def _triangle(matrix: Tensor) -> str:
    """Cosines below the diagonal, row by row, in bytes of 1 / 127."""
    rows, columns = torch.tril_indices(len(matrix), len(matrix), -1)
    values = (127 * matrix[rows, columns]).round().clamp(-127, 127).to(torch.int8)
    return base64.b64encode(values.numpy().tobytes()).decode()

"""Write ``docs/methods.md``, the table of all methods, from the code: ``make methods``.

Formula and space are what each class says of itself, and ``tests/test_docs.py`` holds the spaces
against what the methods do. Cost and memory are measured here, on a network that answers at random.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from guiders.guidance import (
    CFG,
    Coefficients,
    Condition,
    Config,
    Context,
    Denoiser,
    Gate,
    Guider,
    Level,
    Prediction,
    Query,
    Readout,
    Reference,
    Scale,
    Step,
    Term,
    intents,
)
from guiders.guidance.engine.config import fields_of
from guiders.pipelines.language.names import (
    arguments_of,
    gate_names,
    reference_names,
    schedule_names,
    term_names,
    transform_names,
)

PAGE = Path(__file__).parent / "methods.md"
STEPS = 4
LEVELS = [Level(0.1 + 0.2 * i, 0.9 - 0.2 * i) for i in range(STEPS + 1)]


def score(pictures, prompts):
    return pictures.square().flatten(1).sum(dim=1)


class World(Context):
    prompts = ("a",)

    def condition(self, prompt):
        return Condition(str(prompt))


def given(scale: float) -> dict[str, object]:
    """What only the user of a method has, by the name of the setting that asks for it."""
    sigma = tuple(level.edm for level in LEVELS[:STEPS])
    policy = ("true", "estimate", "none", "none")
    return {
        "classifier": lambda x0: x0.flatten(1)[:, :2],
        "coefficients": Coefficients(torch.zeros(STEPS, 3), sigma, policy, scale),
        "log_prob": lambda x, step, prompts: score(x, prompts),
        "model": torch.nn.Identity(),
        "prompts": (*World.prompts, "another"),
        "reward": score,
        "space": "latents",
    }


def example(kind: type[Config], scale: float = 3.0, /, **settings: object) -> Any:
    """A method as it is by default; what it cannot be without is ``given`` to it.

    Args:
        kind: the method's class.
        scale: the guidance scale at which it is to be used.
        settings: of the method, which need not be given.
    """
    try:
        return kind(**settings)
    except (TypeError, ValueError):
        known, names = given(scale), [field.name for field in fields_of(kind)]
        return kind(**{name: known[name] for name in names if name in known} | settings)


def guider_of(kind: type[Config], scale: float | None = None) -> Guider:
    """A guider in which the method is at work.

    Args:
        kind: the method's class.
        scale: the guidance scale, if it is not the method that decides it; by default a term's own,
            and else 3.
    """
    plain = 3.0 if scale is None else scale
    if issubclass(kind, Term):
        return example(kind, plain, **({} if scale is None else {"scale": scale}))
    if issubclass(kind, Reference):
        return CFG(plain, reference=example(kind, plain))
    if issubclass(kind, Gate):
        return CFG(example(kind, scale=plain))
    return CFG(example(kind)) if issubclass(kind, Scale) else CFG(plain) | example(kind)


def trial(guider: Guider) -> tuple[str, list[str]]:
    """Evaluations of an image and a step, and what is remembered, in a run of flow matching."""
    denoiser = Denoiser(guider, 1, World())
    generator = torch.Generator().manual_seed(0)
    spent = 0

    def network(q, requests):
        return {
            branch: Prediction(
                q.x[list(rows)],
                0.1 * q.x[list(rows)] + torch.randn(len(rows), 3, 8, 8, generator=generator),
                Readout(1.0, -q.step.level.std),
            )
            for branch, rows in requests.items()
        }

    for index in range(STEPS):
        step = Step(index, STEPS, 0, LEVELS[index], LEVELS[index + 1])
        x = torch.randn(1, 3, 8, 8, generator=generator)
        spent += denoiser(Query(x, step), network).record.evaluations[0]
    return f"{spent / STEPS:g}", sorted(denoiser.memory())


def row(kind: type[Config]) -> str:
    """The method's line of the table."""
    source = re.findall(r"arXiv:\d+\.\d+", kind.__doc__ or "")
    guider = guider_of(kind)
    cost, kept = ("-", []) if intents(guider) else trial(guider)
    cells = [
        f"`{kind.__name__}`",
        f"`{kind.formula}`".replace("|", "\\|"),
        kind.works_on or "-",
        cost,
        ", ".join(kept) or "-",
        ", ".join(f"`{a}`" for a in arguments_of(kind)) or "-",
        source[0] if source else "-",
    ]
    return f"| {' | '.join(cells)} |"


PARTS = (
    ("How: terms", term_names),
    ("Where: references, as in `CFG(3, reference=...)`", reference_names),
    ("When: scales, as in `CFG(Linear(1, 9))`", schedule_names),
    ("When: gates, as in `CFG(Adaptive(7.5))`", gate_names),
    ("Before and after, as in `CFG(3) | Rescale(0.7)`", transform_names),
)
ABOUT = f"""# Methods

This page is written by `make methods` from the code.

D_c and D_u are the clean images (x0) that the network predicts with the prompt and at the reference; c and u
are its outputs, and g is the guided output. w is the scale: 1 is no guidance. Gradients have a scale s, and 0 is no
guidance. Everything is computed for each image alone.

*Works on* is the space of the formula; "any" means that it is the same in every space. *Evaluations* of the network are
counted per image and step, in a run of {STEPS} steps with the default settings (references, gates and transforms with
CFG). *Keeps* is what a method remembers from step to step, one row for each image.

On the command line a method is its name in lower case, with or without hyphens:
`cfg(3, reference=weak-model(emoji-weak))+interval(0.3, 5)`. [A method of your own](add-a-method.md) is
`mine.py:Name(...)`.
"""
ALIKE = """## Names that are alike

- `rescale` of `APG` is a radius: the largest norm of the gap. `Rescale` is what Diffusers calls `guidance_rescale`.
- `keep` of `Interval` is the share of guidance's effect to keep; `keep` of `Stale` is the space in which the last
  difference is kept.
- `CFGPlusPlus` is a scale, for solvers of first order; `CFGPlusPlus2M` is a term, for DPM-Solver++ 2M.
- `Match` is the scale at which a method is as strong as another guider.
- `Confusion` is GFCG, `WeakModel` autoguidance, `PerturbedAttention` PAG, `SmoothedAttention` SEG, `SkipLayers` SLG
  and STG, `MagnitudeAware` MAMBO-G, `EnergyPreserving` EP-CFG.
"""


def page() -> str:
    head = (
        "| | formula | works on | evaluations, of 4 steps | keeps | settings | source |\n"
        + "|---" * 7
        + "|"
    )
    lines = [ABOUT]
    for title, names in PARTS:
        own = [kind for kind in names().values() if kind.__module__.startswith("guiders.guidance")]
        lines += [f"## {title}", "", head, *map(row, own), ""]
    return "\n".join([*lines, ALIKE])


if __name__ == "__main__":
    PAGE.write_text(page())

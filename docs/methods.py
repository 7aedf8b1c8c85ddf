"""Write ``docs/methods.md``, the table of all methods, from the code: ``make methods``.

Formula and space are what each class says of itself, and ``tests/test_docs.py`` holds the spaces
against what the methods do. Cost and memory are measured here, on a network that answers at random.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch
from guiders import CFG, guidance
from guiders.guidance import (
    Context,
    Denoiser,
    Gate,
    Level,
    Perturbation,
    Post,
    Prediction,
    Prepare,
    Query,
    Readout,
    Reference,
    Scale,
    Step,
    Term,
)
from guiders.pipelines.language.parse import (
    arguments_of,
    gate_names,
    post_names,
    reference_names,
    schedule_names,
    term_names,
)

PAGE = Path(__file__).parent / "methods.md"
STEPS = 4
LEVELS = [Level(0.1 + 0.2 * i, 0.9 - 0.2 * i) for i in range(STEPS + 1)]


def score(pictures, prompts):
    return pictures.square().flatten(1).sum(dim=1)


class World(Context):
    prompts = ("a",)

    def condition(self, prompt):
        return guidance.Condition(str(prompt))


def examples() -> dict[type, object]:
    """Of the classes that need something to be made, one that is."""
    from guiders import ClassifierGuidance, Confusion, Linear, LinearAG, RewardGuidance, WeakModel

    sigma = tuple(level.edm for level in LEVELS[:STEPS])
    policy = ("true", "estimate", "none", "none")
    fit = guidance.Coefficients(torch.zeros(STEPS, 3), sigma, policy, 3.0)
    return {
        ClassifierGuidance: ClassifierGuidance(1.0, lambda x, step, prompts: score(x, prompts)),
        RewardGuidance: RewardGuidance(1.0, score, "latents"),
        WeakModel: WeakModel(torch.nn.Identity()),
        LinearAG: LinearAG(fit),
        Confusion: Confusion(("a", "b"), lambda x0: x0.flatten(1)[:, :2], "latents"),
        Linear: Linear(2, 9),
    }


def trial(guider: guidance.Guider) -> tuple[float, list[str]]:
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
    return spent / STEPS, sorted(denoiser.memory())


def guider_of(kind: type, made: object) -> guidance.Guider:
    """A guider in which the method is at work."""
    if issubclass(kind, Term):
        return made
    if issubclass(kind, Reference):
        return CFG(3, reference=made)
    if issubclass(kind, Gate):
        return CFG(kind(3.0))
    if kind is guidance.Match:  # of CFG that is its scale
        return made.guider
    return CFG(made) if issubclass(kind, Scale) else CFG(3) | made


def row(name: str, kind: type, made: object) -> str:
    doc = kind.__doc__ or ""
    source = re.findall(r"arXiv:\d+\.\d+", doc)
    spent, kept = trial(guider_of(kind, made))
    cells = [
        f"`{kind.__name__}`",
        f"`{kind.formula}`".replace("|", "\\|"),
        kind.works_on or "-",
        f"{spent:g}",
        ", ".join(kept) or "-",
        ", ".join(f"`{a}`" for a in arguments_of(kind)) or "-",
        source[0] if source else "-",
    ]
    return f"| {' | '.join(cells)} |"


PARTS = (
    ("How: terms", term_names, Term),
    ("Where: references, as in `CFG(3, reference=...)`", reference_names, Reference),
    ("When: scales, as in `CFG(Linear(1, 9))`", schedule_names, Scale),
    ("When: gates, as in `CFG(Adaptive(7.5))`", gate_names, Gate),
    ("Before and after, as in `CFG(3) | Rescale(0.7)`", post_names, (Post, Prepare)),
)
ABOUT = f"""# Methods

This page is written by `make methods` from the code.

D_c and D_u are the clean images (x0) that the network predicts with the prompt and at the reference, c
and u its outputs as they come, g the guided one, w the scale (1 is no guidance, for gradients s and 0), all
for each image alone. *Works on* says in which space a formula is meant; "any" are those that mean
the same in every space. *Evaluations* of the network are per image and step, measured in a run of
{STEPS} steps of the method's default settings (references, gates and posts with CFG); *keeps* is what is
remembered from step to step, one row for each image. On the command line a method is its name in lower
case, with or without hyphens: `cfg(3, reference=weak-model(emoji-weak))+interval(0.3, 5)`.
"""


def page() -> str:
    head = (
        "| | formula | works on | evaluations, of 4 steps | keeps | settings | source |\n"
        + "|---" * 7
        + "|"
    )
    made, lines = examples(), [ABOUT]
    for title, names, _ in PARTS:
        lines += [f"## {title}", "", head]
        for name, kind in names().items():
            if not kind.__module__.startswith("guiders.guidance"):
                continue  # somebody's own
            if issubclass(kind, Perturbation) or kind in made:
                instance = made.get(kind) or kind()
            else:
                instance = kind()
            lines.append(row(name, kind, instance))
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    PAGE.write_text(page())

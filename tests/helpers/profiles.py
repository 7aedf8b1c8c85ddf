"""Profiles of known predictions, and runs on them."""

import torch
from guiders import Profile
from guiders.guidance import (
    POSITIVE,
    Denoiser,
    Level,
    Negative,
    Prediction,
    Query,
    Readout,
    Step,
)
from guiders.guidance.calibration.profile import LEVELS, Effect, Gap, Track, reference_key

STEPS, NUMEL = 7, 96
SIGMA = [float(s) for s in torch.logspace(1.2, -0.7, STEPS)]
EDGES = [0, 2, 4, 7]
NAMES = ("cosine", "cosine_eps", "parallel", "norm_ratio")


def steps(stages=None):
    stages = stages or [0] * STEPS
    return [Step(i, STEPS, stages[i], Level(1, s)) for i, s in enumerate(SIGMA)]


def quantiles(values):
    """(T, levels) over prompts of (N, T)."""
    return values.quantile(torch.tensor(LEVELS, dtype=torch.float64), dim=0).T


def track(clean, gap, scale=4.0, effective=None, kind="CFG"):
    """Of predictions (N, T, NUMEL), as ``guiders profile`` makes it."""
    rows = torch.cat([clean, gap], 1)
    unit = rows / rows.norm(dim=2, keepdim=True)
    other = clean - gap
    cosine = torch.cosine_similarity(clean, other, dim=2).cummax(1).values
    flat = torch.zeros(clean.shape[1], dtype=torch.float64)
    return Track(
        {"type": kind, "reference": reference_key(Negative()), "scale": scale},
        scale if effective is None else effective,
        len(clean),
        clean.norm(dim=2).mean(0) / NUMEL**0.5,
        [reference_key(Negative())],
        [
            Gap(
                quantiles(gap.norm(dim=2) / NUMEL**0.5),
                {"x0": quantiles(1 - cosine), "eps": quantiles((1 - cosine) / 10)},
                flat, flat, flat, flat, dict.fromkeys(NAMES, flat),
            )
        ],
        (unit @ unit.transpose(1, 2)).mean(0),
    )  # fmt: skip


def profile(*tracks, stages=None, scales=(4.0,)):
    effects = [
        Effect(s, 8, 0.2, EDGES, [0.3, 0.5, 0.1], [0, 0.3, 0.8, 1], [1, 0.7, 0.1, 0])
        for s in scales
    ]
    facts = {"model": "made up", "pipeline": "", "scheduler": "DDIMScheduler", "latents": [NUMEL],
             "num_inference_steps": STEPS, "prompts": 8}  # fmt: skip
    return Profile(facts, list(SIGMA), stages or [0] * STEPS, list(tracks), effects, 1.9)


def predictions(prompts=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    clean = torch.randn(prompts, STEPS, NUMEL, generator=generator, dtype=torch.float64)
    shared = torch.randn(prompts, 1, NUMEL, generator=generator, dtype=torch.float64)
    own = torch.randn(prompts, STEPS, NUMEL, generator=generator, dtype=torch.float64)
    fading = torch.linspace(0.5, 0.05, STEPS, dtype=torch.float64)[:, None]
    return clean, fading * (shared + 0.7 * own + 0.4 * clean)


def run(guider, clean, gap, stages=None):
    """The mean effective scale, and evaluations, of a guider on given predictions (N, T, NUMEL)."""
    denoiser = Denoiser(guider, len(clean), diagnose=True)
    scales, evaluations = [], []
    for step in steps(stages):
        c, g = clean[:, step.index], gap[:, step.index]

        def network(q, requests, c=c, g=g):
            return {
                branch: Prediction(q.x, c if branch == POSITIVE else c - g, Readout(0, 1)).rows(r)
                for branch, r in requests.items()
            }

        record = denoiser(Query(torch.zeros_like(c), step), network).record
        scales.append(record.diagnosis.effective_scale)
        evaluations.append(record.evaluations)
    return sum(map(sum, scales)) / (len(clean) * STEPS), torch.tensor(evaluations).sum(0)


def denoised(guider, step):
    from guiders.guidance.engine.state import State

    return guider.when.at(step, State(1))[0]

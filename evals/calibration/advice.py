"""A profile in plain words, each with the command that acts on it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...guidance import APG, CFG, Adaptive, Interval, Profile, effective_scale, resolve
from ...guidance.calibration.profile import LEVELS, NEGATIVE_KEY, Effect, Gap, Track, between
from ...guidance.calibration.resolve import smallest
from ...guidance.calibration.simulate import values_of
from ...guidance.terms.apg import SDXL_RMS
from ...pipelines.presets.published import published_for

KEEP, AGREED, BURNT = 0.95, 0.999, 0.01
TRUSTED = 8  # prompts of an effect, at least
DEFAULTS, PUBLISHED = "Defaults, found on other models", "Published, not measured here"


@dataclass(frozen=True)
class Advice:
    """What is seen, and what to do about it.

    Attributes:
        about: what it is about, such as a scale of CFG.
        guider: to give a command, where there is one.
    """

    about: str
    text: str
    guider: str = ""


def advise(profile: Profile) -> list[Advice]:
    """What a profile says of every scale of CFG that it has, and of the methods' own defaults."""
    found: list[Advice] = []
    for effect in profile.effects:
        track = _plain_track(profile, effect)
        if track is None:
            continue
        gap = track.gaps[track.references.index(NEGATIVE_KEY)]
        found += [
            _where(profile, effect),
            _agreement(profile, effect, gap),
            _saving(profile, effect),
            *_colour(effect),
            _direction(effect, gap),
        ]
    return [*found, *_defaults(profile), *_published(profile)]


def _plain_track(profile: Profile, effect: Effect) -> Track | None:
    """That of CFG at the scale of an effect."""
    wanted = {"type": "CFG", "reference": NEGATIVE_KEY, "scale": effect.scale}
    return next((track for track in profile.tracks if track.guider == wanted), None)


def _name(effect: Effect) -> str:
    return f"CFG {effect.scale:g}"


def _seen(effect: Effect) -> str:
    few = ", too few to trust" if effect.prompts < TRUSTED else ""
    return f"On {effect.prompts} prompt{'s' if effect.prompts > 1 else ''}{few}:"


def _where(profile: Profile, effect: Effect) -> Advice:
    low, high = smallest(profile, KEEP, effect.scale)
    inside = [v for v in values_of(Interval(2.0, low, high), profile.steps) if v != 1]
    count, saved = len(profile.sigma), (len(profile.sigma) - len(inside)) / 2
    strongest = max(range(len(effect.alone)), key=lambda i: effect.alone[i])
    first, last = effect.edges[strongest], effect.edges[strongest + 1] - 1
    text = (
        f"{_seen(effect)} guidance matters most from sigma {profile.sigma[first]:.3g} to "
        f"{profile.sigma[last]:.3g}, without it there {100 * effect.alone[strongest]:.0f} % of its "
        "effect is lost. "
    )
    if len(inside) == count:
        return Advice(
            _name(effect), f"{text}There is no step without which {100 * KEEP:g} % of it is kept."
        )
    return Advice(
        _name(effect),
        f"{text}Guiding only for sigma in ({low:g}, {'inf' if high is None else f'{high:g}'}], "
        f"at {len(inside)} of {count} noise levels, keeps {100 * KEEP:g} % of it and saves "
        f"{100 * saved / count:.0f} % of the evaluations.",
        f"cfg({effect.scale:g})+interval(keep={KEEP:g})",
    )


def _agreement(profile: Profile, effect: Effect, gap: Gap) -> Advice:
    middle = gap.disagreement["x0"][:, LEVELS.index(0.5)].tolist()
    after = next((i for i, value in enumerate(middle) if value <= 1 - AGREED), None)
    if after is None:
        return Advice(
            _name(effect),
            f"The two predictions never agree (largest cosine of the clean images, median "
            f"{1 - middle[-1]:.4f}), so Adaptive Guidance at its default of {AGREED} saves little.",
        )
    return Advice(
        _name(effect),
        f"After {after + 1} of {len(middle)} evaluations (sigma {profile.sigma[after]:.3g}) the "
        "two predictions agree: half of the prompts have had a cosine of at least "
        f"{AGREED} in x0.",
        f"cfg({effect.scale:g})+adaptive({AGREED})" if after + 1 < len(middle) else "",
    )


def _saving(profile: Profile, effect: Effect) -> Advice:
    save = 0.25
    try:
        guider: Any = resolve(CFG(Adaptive(effect.scale, save=save)), profile)
    except ValueError:  # there are too few
        return Advice(_name(effect), "A quarter of the evaluations cannot be saved: too few.")
    return Advice(
        _name(effect),
        "A quarter of the evaluations is saved by stopping at a cosine of "
        f"{guider.when.threshold:.10g} in x0. Fewer steps may save as much at a smaller loss: "
        "`guiders compare` can tell.",
        f"cfg({effect.scale:g})+adaptive(save={save:g})",
    )


def _colour(effect: Effect) -> list[Advice]:
    if not {"saturation", "clipped"} <= effect.colour.keys():
        return []
    before, after = effect.colour["saturation"]
    burnt = effect.colour["clipped"][1] - effect.colour["clipped"][0]
    where = f"{_seen(effect)} saturation goes from {before:.3f} to {after:.3f}"
    if burnt >= BURNT:
        return [
            Advice(
                _name(effect),
                f"{where}, and {100 * burnt:.1f} % of the channel values are burnt to black or "
                "white that were not without guidance.",
            )
        ]
    return [
        Advice(
            _name(effect),
            f"{where}; no more values are burnt to black or white than without guidance.",
        )
    ]


def _direction(effect: Effect, gap: Gap) -> Advice:
    share = gap.parallel.square() + gap.spread["parallel"].square()  # the mean of the squares
    third = max(1, len(share) // 3)
    parts = [float(part.mean()) for part in (share[:third], share[-third:])]
    sign = "it points along it" if float(gap.parallel.mean()) > 0 else "it points against it"
    return Advice(
        _name(effect),
        f"{100 * parts[0]:.0f} % of the gap's energy lies along the clean "
        f"image in the first third of the run and {100 * parts[1]:.0f} % in the last; on average "
        f"{sign}. That part is what APG leaves out. APG as strong as this CFG, with a radius that "
        "a tenth of the gaps exceeds:",
        f"apg(match({effect.scale:g}), rescale=p90)",
    )


def _defaults(profile: Profile) -> list[Advice]:
    """What the methods' defaults, found on other models, mean on this one."""
    found = []
    effect = min(profile.effects, key=lambda e: abs(e.scale - 7.5))
    track = _plain_track(profile, effect)
    if track is None:
        return []
    size = track.gaps[track.references.index(NEGATIVE_KEY)].size
    shares = [1 - _share_below(row.tolist(), SDXL_RMS) for row in size]
    shortened = sum(shares) / len(shares)
    found.append(
        Advice(
            DEFAULTS,
            f"APG's default radius, the paper's for SDXL, shortens {100 * shortened:.0f} % of the "
            f"gaps here (CFG {effect.scale:g}, before momentum).",
        )
    )
    strength = effective_scale(APG(), profile)
    found.append(
        Advice(
            DEFAULTS,
            f"APG at its default scale of {APG().when} is as strong as CFG {strength:.3g} here."
            if strength > 1
            else "APG at its default momentum goes against guidance here: gaps fall too fast.",
        )
    )
    return found


def _share_below(quantiles: list[float], value: float) -> float:
    if value < quantiles[0]:
        return 0.0
    return between(value, quantiles, LEVELS)


def _published(profile: Profile) -> list[Advice]:
    return [
        Advice(PUBLISHED, f"For {one.family}: {one.source}.", one.guider)
        for one in published_for(profile.facts.get("pipeline", ""))
        if profile.facts["model"] not in ("emoji",)
    ]

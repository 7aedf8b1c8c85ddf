"""Intent into numbers: what a guider leaves to a profile of the model is read from it."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..engine.config import intents, reject
from ..engine.guider import Gradient, Guider, Sum, Term
from ..engine.levels import Step
from ..engine.reference import Negative
from ..engine.scale import Constant, Gate, Scale
from ..scales.adaptive import Adaptive
from ..scales.interval import Interval
from ..scales.match import Match
from ..terms.apg import APG
from .profile import Effect, Profile
from .simulate import View, values_of

ROUNDS = 4  # of looking where on the profile a method is, given what was read there
DIGITS = 4
STEADY = 0.6  # of what a matched term moves, at least, must not be taken back by itself


def resolve(
    guider: Guider,
    profile: Profile | str | Path,
    steps: Sequence[Step] | None = None,
    latents: Sequence[int] | None = None,
) -> Guider:
    """The same guider with explicit numbers, the same one where it has them already.

    Args:
        profile: of the model, or the path of its file.
        steps: the run's evaluations, of the same noise levels as the profile's; by default those.
        latents: the shape of one image's latents, where it is known.

    Raises:
        ValueError: the profile is of another grid or lacks what is asked for, or what is asked for
            cannot be had.
    """
    if not intents(guider):
        return guider
    profile = profile if isinstance(profile, Profile) else Profile.load(profile)
    steps = profile.steps if steps is None else steps
    profile.check(steps, latents)
    for term in guider.terms:
        if isinstance(term, Gradient) and intents(term):
            allowed = f"one without {', '.join(intents(term))}: a profile is of two predictions"
            raise reject(term, "scale", str(term.when), allowed)
    terms = _with_thresholds(_with_numbers(guider.terms, profile, steps), profile, steps)
    if isinstance(guider, Term):
        return terms[0]
    return Sum(terms, (*guider.prepares, *guider.posts))


def effective_scale(
    guider: Guider,
    profile: Profile,
    steps: Sequence[Step] | None = None,
    over: Sequence[bool] | None = None,
) -> float:
    """The mean effective scale of a guider, as far along as CFG at that scale would go.

    Args:
        over: the evaluations that count; all of them by default.

    Raises:
        ValueError: it depends on more than a profile has.
    """
    steps = profile.steps if steps is None else steps
    guider = resolve(guider, profile, steps)
    if guider.posts or guider.prepares or any(term.when.observes for term in guider.terms):
        allowed = "a sum of terms whose scales do not depend on what is seen on the way"
        raise reject("Match", "guider", str(guider), allowed)
    at = _along(guider.terms, profile, steps)
    parts = [_view(term, guider.terms, profile, at, steps).effective(term, over)
             for term in guider.terms]  # fmt: skip
    return 1 + sum(part - 1 for part in parts)


def _along(terms: Sequence[Term], profile: Profile, steps: Sequence[Step]) -> float:
    """Where on the profile terms with explicit scales are, by their own effect together.

    One whose reference was not measured is taken to add nothing.
    """
    terms = [t for t in terms if t.reference and any(k.gap(t.reference) for k in profile.tracks)]

    def total(part: Callable[[Term], float]) -> float:
        return 1 + sum(part(term) - 1 for term in terms)

    def effective(term: Term) -> float:
        if not term.by_products:
            return _mean(term, steps)
        view = _view(term, terms, profile, found, steps)
        return view.effective(_own(term, view, steps))

    found = total(lambda term: _mean(term, steps))
    for _ in range(ROUNDS):
        found = total(effective)
    return found


def _view(term: Term, terms: Sequence[Term], profile: Profile, at: float, steps: Sequence[Step],
          beyond: str = "take") -> View:  # fmt: skip
    return View.of(profile, term, at, steps, beyond, alone=len(terms) == 1)


def _with_numbers(
    terms: Sequence[Term], profile: Profile, steps: Sequence[Step]
) -> tuple[Term, ...]:
    """Terms with scales, bounds and radii in place of what they leave open."""
    known = [term for term in terms if not isinstance(term, Gradient)]
    matched = [inner.guider for term in known if isinstance(inner := _inner(term.when), Match)]
    others = [t.replace(scale=_inner(t.when)) for t in known
              if not isinstance(_inner(t.when), Match)]  # fmt: skip
    goals = [effective_scale(guider, profile, steps) for guider in matched]
    at = sum(goal - 1 for goal in goals) + (_along(others, profile, steps) if others else 1)

    def numbers(term: Term) -> Term:
        if not intents(term):
            return term
        inner = _inner(term.when)
        beyond = "refuse" if isinstance(inner, Match) and len(known) == 1 else "warn"
        view = _view(term, known, profile, at, steps, beyond)
        term = term.replace(scale=_with_bounds(term, term.when, profile, at))
        acts = _acts(term, steps)
        term = _own(term, view, steps)
        if isinstance(inner, Match):
            goal = effective_scale(inner.guider, profile, steps, acts)
            plain = term.replace(scale=_within(term.when, Constant(2.0)))
            moves = [value - 1 for value in view.each(plain)]
            back = sum(move < 0 for move in moves)
            strength = sum(moves) / sum(acts)
            steady = sum(moves) >= STEADY * sum(map(abs, moves)) and min(moves) > -1
            if strength < 1e-3 or not steady:
                against = f", and against it at {back} of {len(moves)} evaluations" if back else ""
                if back and isinstance(term, APG):
                    against += "; allowed is a momentum nearer to 0"
                raise ValueError(
                    f"{type(term).__name__}: scale is {inner}; no scale is for certain, since "
                    f"{plain} moves {strength:.3g} of the way of CFG on average{against}"
                )
            scale = _rounded(max(0.0, 1 + (goal - 1) / strength))
            term = term.replace(scale=_within(term.when, Constant(scale)))
        return term

    return tuple(numbers(term) for term in terms)


def _with_thresholds(
    terms: Sequence[Term], profile: Profile, steps: Sequence[Step]
) -> tuple[Term, ...]:
    """Terms with thresholds in place of what they are to save."""
    rules = [_saving(term.when) for term in terms]
    if not any(rules):
        return tuple(terms)
    known = [term for term in terms if not isinstance(term, Gradient)]
    at = _along([t.replace(scale=_inner(t.when)) for t in known], profile, steps)
    branches = 1 + len({term.reference for term in known})

    def with_threshold(term: Term, rule: Adaptive | None) -> Term:
        if rule is None or rule.save is None:
            return term
        assert term.reference is not None
        beside = [t for t in known if t.reference == term.reference]
        with_it = [t for t in beside if _saving(t.when)]
        if any((r.save, r.space) != (rule.save, rule.space) for t in with_it
               if (r := _saving(t.when))):  # fmt: skip
            allowed = f"the same share, in the same space, for all terms of the {term.reference}"
            raise reject(rule, "save", rule.save, allowed)
        view = _view(term, known, profile, at, steps)
        threshold = view.threshold(
            rule.save, rule.space, term.reference, _any_acts(with_it, steps),
            _any_acts([t for t in beside if t not in with_it], steps), branches,
        )  # fmt: skip

        def change(scale: Scale) -> Scale:
            if scale is rule:
                return rule.replace(threshold=threshold)
            assert isinstance(scale, Gate)
            return scale.replace(scale=change(scale.scale))

        return term.replace(scale=change(term.when))

    return tuple(map(with_threshold, terms, rules))


def _saving(scale: Scale) -> Adaptive | None:
    """The gate that is to save a share, if there is one."""
    while isinstance(scale, Gate):
        if isinstance(scale, Adaptive) and scale.save is not None:
            return scale
        scale = scale.scale
    return None


def _own(term: Term, view: View, steps: Sequence[Step]) -> Term:
    """A term with a number in place of the percentile of its radius."""
    if isinstance(term, APG) and term.percentile is not None:
        acts = _acts(term, steps)
        radius = view.radius(term.percentile / 100, term.momentum, term.reference, acts)
        return term.replace(rescale_rms=_rounded(radius))
    return term


def _with_bounds(term: Term, scale: Scale, profile: Profile, at: float) -> Scale:
    """The gates of a term, with bounds for every share that is to be kept."""
    if not isinstance(scale, Gate):
        return scale
    changes: dict[str, Any] = {"scale": _with_bounds(term, scale.scale, profile, at)}
    if isinstance(scale, Interval) and scale.keep is not None:
        if term.reference != Negative():
            allowed = f"None for the {term.reference}: a profile has the negative prompt's effect"
            raise reject(scale, "keep", scale.keep, allowed)
        low, high = smallest(profile, scale.keep, at)
        if not low and high is None:
            warnings.warn(
                f"{scale.intent} leaves nothing out: without any one solver step less is kept",
                stacklevel=2,
            )
        changes |= {"keep": None, "low": low, "high": high}
    return scale.replace(**changes)


def smallest(profile: Profile, keep: float, scale: float) -> tuple[float, float | None]:
    """The bounds of the fewest solver steps that keep that share of the effect of guidance."""
    effect = _nearest(profile.effects, scale)
    # Later stages keep the decision of their step's first evaluation, and may be at its level.
    starts = [i for i, stage in enumerate(profile.stage) if stage == 0 or i == 0]
    ends = [*(i - 1 for i in starts[1:]), len(profile.sigma) - 1]
    spans = [
        (last - first, -effect.kept(starts[first], ends[last]), first, last)
        for first in range(len(starts))
        for last in range(first, len(starts))
        if effect.kept(starts[first], ends[last]) >= keep
    ]
    _, _, first, last = min(spans)  # all of them keep everything
    sigma = [profile.sigma[start] for start in starts]
    high = _middle(sigma[first], sigma[first - 1]) if first else None
    return (_middle(sigma[last + 1], sigma[last]) if last + 1 < len(sigma) else 0.0), high


def _nearest(effects: Sequence[Effect], scale: float) -> Effect:
    return min(effects, key=lambda effect: abs(math.log(effect.scale / max(scale, 1e-6))))


def _middle(low: float, high: float) -> float:
    """Between two noise levels, in few digits."""
    if math.isinf(high):
        return _rounded(2 * low)
    return _rounded(math.sqrt(low * high)) if low > 0 else _rounded(high / 2)


def _inner(scale: Scale) -> Scale:
    """The scale within all gates."""
    while isinstance(scale, Gate):
        scale = scale.scale
    return scale


def _within(scale: Scale, inner: Scale) -> Scale:
    """Another scale within the same gates."""
    if not isinstance(scale, Gate):
        return inner
    return scale.replace(scale=_within(scale.scale, inner))


def _acts(term: Term, steps: Sequence[Step]) -> list[bool]:
    """Does a term act at each evaluation, but for what is seen on the way?"""
    scale = _within(term.when, Constant(2.0)) if isinstance(_inner(term.when), Match) else term.when
    return [value != term.off for value in values_of(scale, steps)]


def _any_acts(terms: Sequence[Term], steps: Sequence[Step]) -> list[bool]:
    each = [_acts(term, steps) for term in terms]
    return [any(acts[i] for acts in each) for i in range(len(steps))]


def _mean(term: Term, steps: Sequence[Step]) -> float:
    """The mean of its scale, over evaluations and images."""
    return sum(values_of(term.when, steps)) / len(steps)


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")

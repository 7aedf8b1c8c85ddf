"""Intent into numbers: what a guider leaves to a profile of the model is read from it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from .adaptive import Adaptive
from .apg import APG
from .config import intents, reject
from .gates import Gate, Interval
from .guider import Gradient, Guider, Sum, Term
from .match import Match
from .profile import Effect, Profile
from .reference import Negative
from .replay import View
from .scale import Constant, PerImage, Scale
from .state import State
from .types import Step

ROUNDS = 4  # of looking where on the profile a method is, given what was read there
DIGITS = 4


def resolve(
    guider: Guider,
    profile: Profile,
    steps: Sequence[Step] | None = None,
    latents: Sequence[int] | None = None,
) -> Guider:
    """The same guider with explicit numbers, the same one where it has them already.

    Args:
        steps: the run's evaluations, of the same noise levels as the profile's; by default those.
        latents: the shape of one image's latents, where it is known.

    Raises:
        ValueError: the profile is of another grid or lacks what is asked for, or what is asked for
            cannot be had.
    """
    if not intents(guider):
        return guider
    steps = profile.steps if steps is None else steps
    profile.check(steps, latents)
    terms = tuple(_term(term, profile, steps) for term in guider.terms)
    if isinstance(guider, Term):
        return terms[0]
    return Sum(terms, (*guider.prepares, *guider.posts))


def effective_scale(guider: Guider, profile: Profile, steps: Sequence[Step] | None = None) -> float:
    """The mean effective scale of a guider, as far along as CFG at that scale would go.

    Raises:
        ValueError: it depends on more than a profile has.
    """
    steps = profile.steps if steps is None else steps
    guider = resolve(guider, profile, steps)
    if guider.posts or guider.prepares or any(term.when.observes for term in guider.terms):
        allowed = "a sum of terms whose scales do not depend on what is seen on the way"
        raise reject("Match", "guider", str(guider), allowed)
    parts = [_effective(term, profile, steps) for term in guider.terms]
    return 1 + sum(part - 1 for part in parts)


def _term(term: Term, profile: Profile, steps: Sequence[Step]) -> Term:
    if not intents(term):
        return term
    if isinstance(term, Gradient):
        allowed = f"one without {', '.join(intents(term))}: a profile is of two predictions"
        raise reject(term, "scale", str(term.when), allowed)
    inner = _inner(term.when)
    if isinstance(inner, Match):
        effective = effective_scale(inner.guider, profile, steps)
        view = View.of(profile, term, effective, steps, "refuse")
        plain = _own(term, view).replace(scale=2.0)
        strength = view.effective(plain) - 1
        if strength < 1e-3:
            raise ValueError(
                f"{type(term).__name__}: scale is {inner}; no scale is, since {plain} moves "
                f"{strength:.3g} of the way of CFG"
            )
        inner = Constant(_rounded(max(0.0, 1 + (effective - 1) / strength)))
        term = _own(term, view)
    else:
        effective = _mean(inner, steps)
        view = View.of(profile, term, effective, steps)
        for _ in range(ROUNDS if term.by_products else 0):
            effective = _effective(_own(term.replace(scale=inner), view), profile, steps)
            view = View.of(profile, term, effective, steps)
        view = View.of(profile, term, effective, steps, "warn")
        term = _own(term, view)
    return term.replace(scale=_gates(term, term.when, inner, view, profile))


def _own(term: Term, view: View) -> Term:
    """A term with numbers in place of what its own settings leave open."""
    if isinstance(term, APG) and term.percentile is not None:
        radius = view.radius(term.percentile / 100, term.momentum, term.reference)
        return term.replace(rescale_rms=_rounded(radius))
    return term


def _gates(term: Term, scale: Scale, inner: Scale, view: View, profile: Profile) -> Scale:
    """The gates of a term with numbers, around the scale inside."""
    if not isinstance(scale, Gate):
        return inner
    changes: dict[str, Any] = {"scale": _gates(term, scale.scale, inner, view, profile)}
    assert term.reference is not None
    if isinstance(scale, Adaptive) and scale.save is not None:
        threshold = view.threshold(scale.save, scale.space, term.reference)
        changes |= {"save": None, "threshold": threshold}
    if isinstance(scale, Interval) and scale.keep is not None:
        if term.reference != Negative():
            allowed = f"None for the {term.reference}: a profile has the negative prompt's effect"
            raise reject(scale, "keep", scale.keep, allowed)
        low, high = smallest(profile, scale.keep, view.track.effective)
        changes |= {"keep": None, "low": low, "high": high}
    return scale.replace(**changes)


def smallest(profile: Profile, keep: float, scale: float) -> tuple[float, float | None]:
    """The bounds of the fewest evaluations that keep that share of the effect of guidance."""
    effect = _nearest(profile.effects, scale)
    count = len(profile.sigma)
    spans = [
        (last - first, -effect.kept(first, last), first, last)
        for first in range(count)
        for last in range(first, count)
        if effect.kept(first, last) >= keep
    ]
    _, _, first, last = min(spans)  # all of them keep everything
    sigma = profile.sigma
    high = _middle(sigma[first], sigma[first - 1]) if first else None
    return (_middle(sigma[last + 1], sigma[last]) if last + 1 < count else 0.0), high


def _nearest(effects: Sequence[Effect], scale: float) -> Effect:
    return min(effects, key=lambda effect: abs(math.log(effect.scale / max(scale, 1e-6))))


def _middle(low: float, high: float) -> float:
    """Between two noise levels, in few digits."""
    if math.isinf(high):
        return _rounded(2 * low)
    return _rounded(math.sqrt(low * high)) if low > 0 else _rounded(high / 2)


def _effective(term: Term, profile: Profile, steps: Sequence[Step]) -> float:
    """Of a term with numbers, where it is on the profile by its own effect."""
    view = View.of(profile, term, _mean(_inner(term.when), steps), steps)
    effective = view.effective(term)
    for _ in range(ROUNDS):
        view = View.of(profile, term, effective, steps)
        effective = view.effective(term)
    return effective


def _inner(scale: Scale) -> Scale:
    """The scale within all gates."""
    while isinstance(scale, Gate):
        scale = scale.scale
    return scale


def _mean(scale: Scale, steps: Sequence[Step]) -> float:
    """Over evaluations, and images."""
    batch = len(scale.scales) if isinstance(scale, PerImage) else 1
    values = [v for step in steps for v in scale.at(step, State(batch))]
    return sum(values) / len(values)


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")

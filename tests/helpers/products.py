"""Products of parameters, of which ``make test`` runs as many as it takes to see every pair."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pytest


def product(*factors: Iterable[Any], quick: Callable[..., bool] = lambda *_: False) -> list[Any]:
    """All combinations, for ``parametrize``; those that ``make test`` leaves out are marked slow.

    Args:
        factors: the values of each parameter.
        quick: whether ``make quick`` runs a combination, of those that ``make test`` runs.
    """
    lists = [list(values) for values in factors]
    kept, cases = covering([len(values) for values in lists]), []
    for places in itertools.product(*(range(len(values)) for values in lists)):
        values = [one[place] for one, place in zip(lists, places, strict=True)]
        marks = [] if places in kept else [pytest.mark.slow]
        if places in kept and quick(*values):
            marks.append(pytest.mark.quick)
        cases.append(pytest.param(*values, id="-".join(map(str, values)), marks=marks))
    return cases


def covering(shape: Sequence[int]) -> set[tuple[int, ...]]:
    """Combinations of places in which any place of one factor meets any of another: few, not all.

    The next one is always that with the most new pairs, and of those the first.
    """
    whole = {
        places: set(itertools.combinations(enumerate(places), 2))
        for places in itertools.product(*map(range, shape))
    }
    chosen, missing = set(), set().union(*whole.values())
    while missing:
        best = max(whole, key=lambda places: len(whole[places] & missing))
        chosen.add(best)
        missing -= whole[best]
    return chosen

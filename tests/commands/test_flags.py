"""Flags that change a guider."""

import pytest
from guiders import APG, CFG, Adaptive, Interval, Linear, Rescale
from guiders.commands.flags import with_gate, with_scale


def test_a_gate_from_a_flag_changes_the_one_that_is_there():
    guider = CFG(Adaptive(Interval(5, high=3), threshold=0.5))
    assert with_gate(guider, Adaptive, threshold=0.9) == guider.replace(
        scale=Adaptive(Interval(5, high=3), threshold=0.9)
    )
    assert with_gate(guider, Interval, low=0.5, high=2) == guider.replace(
        scale=Adaptive(Interval(5, 0.5, 2), threshold=0.5)
    )


def test_with_scale_reaches_inside():
    assert with_scale(CFG(Adaptive(Interval(5, high=3))), 2) == CFG(Adaptive(Interval(2, high=3)))
    assert with_scale(CFG(5) + APG(3) | Rescale(), 2) == CFG(2) + APG(2) | Rescale()
    with pytest.raises(ValueError, match="got linear from 1 to 9"):
        with_scale(CFG(Linear(1, 9)), 3)

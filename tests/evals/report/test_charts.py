"""Charts as SVG."""

import numpy as np
import pytest
from guiders.evals.report.charts import Line, Point, chart, ticks


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (1, 16), (0.42, 0.57), (-3, 3), (5, 5), (0, 0), (1e-4, 2e-4)]
)
def test_ticks_are_round_and_hold_the_range(low, high):
    marks = ticks(low, high)
    assert 2 <= len(marks) <= 8
    assert marks[0] <= low
    assert marks[-1] >= high
    steps = np.diff(marks)
    assert np.allclose(steps, steps[0])


def test_a_chart_places_what_it_is_given():
    line = Line("a <b>", [Point(1, 2, 1, 3), Point(2, 4, float("nan"), float("nan"))], 0)
    svg = chart([line], "scale", "FD & more")
    assert "a &lt;b&gt;" in svg
    assert "FD &amp; more" in svg
    assert "nan" not in svg
    assert svg.count("<circle") == 2
    assert 'class="band' not in svg  # one interval is no band

"""What others published is a guider, for a pipeline that there is."""

import diffusers
import pytest
from guiders import APG, CFG, Adaptive, Interval, Rescale
from guiders.pipelines.language.parse import parse_guider
from guiders.pipelines.presets.published import PUBLISHED, hints, published_for


@pytest.mark.parametrize("one", PUBLISHED, ids=lambda one: f"{one.family} {one.guider}")
def test_it_can_be_used(one):
    parse_guider(one.guider)
    assert one.source
    if one.family.startswith("EDM2"):  # it has no pipeline in Diffusers
        return
    names = [name for name in diffusers.pipelines.__all__ if name.startswith(one.pipelines)]
    assert names


@pytest.mark.parametrize("one", [p for p in PUBLISHED if p.source == "Diffusers' default"])
def test_defaults_of_diffusers_are_those(one):
    import inspect

    name = next(
        n
        for n in diffusers.pipelines.__all__
        if n in (f"{one.pipelines[0]}Pipeline", *one.pipelines)
    )
    call = inspect.signature(getattr(diffusers, name).__call__)
    assert parse_guider(one.guider) == CFG(call.parameters["guidance_scale"].default)


def test_of_a_family():
    found = {one.guider for one in published_for("StableDiffusionXLPipeline")}
    assert "cfg+interval(0.28, 5.42)" in found
    assert "cfg(7.5)" not in found
    assert published_for("SomebodysPipeline") == []


def test_hints_are_of_the_methods_that_were_asked_for():
    name = "StableDiffusionXLPipeline"
    assert any("interval" in line for line in hints(name, CFG(Interval(3, keep=0.9))))
    assert not any("apg" in line for line in hints(name, CFG(Interval(3, keep=0.9))))
    assert hints(name, CFG(3)) == []
    both = [APG(rescale="p90") + CFG(Adaptive(2, save=0.1)) | Rescale()]
    said = hints(name, both)
    assert any("apg" in line for line in said)
    assert any("adaptive" in line for line in said)
    assert all("not measured here" in line for line in said)

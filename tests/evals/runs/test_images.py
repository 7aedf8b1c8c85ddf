"""Pictures that are the same whoever draws them, and whatever happened before."""

import errno
import hashlib
import resource
from pathlib import Path

import numpy as np
import pytest
import torch
from guiders import APG, CFG, Adaptive, Interval, Rescale, WeakModel
from guiders.evals.runs.images import forget_peak, peak_memory
from guiders.evals.runs.plan import Plan, exact_scale
from guiders.guidance.engine import files
from guiders.pipelines.generation import png
from guiders.pipelines.machine import fixed_threads
from PIL import Image


def hashes(drawing):
    folder = drawing.folder / "pictures"
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir()}


def draw(drawing, ranks=1):
    """All processes of a run, one after the other."""
    for rank in range(ranks):
        for batch in range(rank, drawing.batches, ranks):
            drawing.pictures(batch)
    return hashes(drawing)


@pytest.fixture
def all_seven(drawing):
    return draw(drawing())


def test_every_number_of_processes_draws_the_same_files(drawing, all_seven):
    assert sorted(all_seven) == [f"{n:06d}.png" for n in range(7)]
    assert len(set(all_seven.values())) == 7
    for ranks in (2, 3):
        assert draw(drawing(out=str(ranks)), ranks) == all_seven


def test_more_pictures_leave_the_first_as_they_are(drawing, all_seven):
    assert draw(drawing(count=9, out="more")).items() >= all_seven.items()
    first = drawing(count=5, out="grows")
    draw(first)
    grown = drawing(count=7, out="grows")
    assert draw(grown) == all_seven
    assert grown.drawn == 3 * 2  # the batch that was not whole, and the one that was not there


def test_a_picture_carries_its_settings(drawing, all_seven):
    settings = png.read(drawing().path(5))
    assert settings["prompt"] == "blue car"
    assert settings["seed"] == 5
    assert settings["guider"] == APG(4).to_dict()


def test_what_is_lost_or_damaged_is_drawn_again_and_nothing_else(drawing, all_seven):
    again = drawing()
    again.path(1).unlink()
    data = again.path(3).read_bytes()
    again.path(3).write_bytes(data[: len(data) // 2])
    kept = again.path(0).stat().st_mtime_ns
    assert draw(again) == all_seven
    assert again.drawn == 6  # two batches of three
    assert again.path(0).stat().st_mtime_ns == kept
    assert draw(idle := drawing()) == all_seven
    assert idle.drawn == 0


def test_a_disk_that_is_full_is_an_error_and_keeps_what_was_made(drawing, all_seven):
    full = drawing(out="full")
    full.pictures(0)
    before = hashes(full)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (600, limits[1]))  # no file may grow beyond this
    try:
        with pytest.raises(OSError, match=r"000003\.png cannot be written .* is kept"):
            full.pictures(1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert hashes(full) == before
    assert draw(full) == all_seven


def test_a_kill_between_any_two_writes_loses_nothing(drawing, all_seven, monkeypatch):
    write = files.write
    for moment in range(4):
        run, left = drawing(out=f"killed-{moment}"), moment

        def dies(path, fill, **options):
            nonlocal left
            if left == 0:
                raise KeyboardInterrupt
            left -= 1
            write(path, fill, **options)

        for module in ("evals.storage.files", "pipelines.generation.png"):
            monkeypatch.setattr(f"guiders.{module}.write", dies)
        with pytest.raises(KeyboardInterrupt):
            draw(run)
        monkeypatch.undo()
        assert draw(run) == all_seven


def test_leftovers_of_a_kill_are_swept(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / ".000001.png.77.part").write_bytes(b"half")
    (tmp_path / "a" / "000000.png").write_bytes(b"whole")
    files.sweep(tmp_path)
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["000000.png"]
    with pytest.raises(OSError, match="is kept"):
        files.write(tmp_path / "b", lambda file: (_ for _ in ()).throw(OSError(errno.EIO, "bad")))
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_without_storing_pictures_they_are_the_same(drawing, all_seven):
    bare = drawing(out="bare", keep=False)
    pictures = [picture for batch in range(3) for picture in bare.pictures(batch)]
    assert not (bare.folder / "pictures").exists()
    for number, picture in enumerate(pictures):
        with Image.open(drawing().path(number)) as stored:
            assert picture.tobytes() == stored.tobytes()
    assert bare.facts(2)["evaluations"] == [4, 4, 4]


def test_the_effective_scale_of_cfg_is_its_scale_and_the_pictures_are_not_changed(drawing):
    measured = drawing(guider=CFG(3), out="cfg").effective_scales(2)
    np.testing.assert_allclose(measured, [3], rtol=1e-4)  # of the seventh picture alone
    steps = drawing(guider=CFG(Interval(3, low=0, high=1e-9)), out="off").effective_scales(0)
    np.testing.assert_allclose(steps, 1, rtol=1e-4)
    assert exact_scale(CFG(3)) == 3
    for guider in (APG(3), CFG(Adaptive(3)), CFG(3) | Rescale(0.5), CFG(2) + CFG(3)):
        assert exact_scale(guider) is None
    assert exact_scale(CFG(3, reference=WeakModel(torch.nn.Identity()))) is None


def test_a_folder_belongs_to_one_plan(drawing, tmp_path):
    plan = drawing().plan
    plan.claim(tmp_path, {"model_sha256": "a"})
    plan.claim(tmp_path, {"model_sha256": "a"})
    with pytest.raises(ValueError, match="model_sha256 is 'a', and not 'b'; allowed is another"):
        plan.claim(tmp_path, {"model_sha256": "b"})
    with pytest.raises(ValueError, match="where batch_size is 3, and not 4"):
        drawing(batch_size=4).plan.claim(tmp_path, {"model_sha256": "a"})
    assert Plan.from_dict(plan.to_dict()) == plan
    with pytest.raises(ValueError, match=r"batch_size: expected a whole number.*, got 0"):
        drawing(batch_size=0)
    with fixed_threads(3):
        assert torch.get_num_threads() == 3


@pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="the peak is forgotten on Linux"
)
def test_memory_is_of_what_was_drawn_and_not_of_before():
    device = torch.device("cpu")
    large = np.ones(40_000_000)
    assert peak_memory(device) > 320
    del large
    forget_peak(device)
    before = peak_memory(device)
    small = np.ones(10_000_000)
    assert 70 < peak_memory(device) - before < 200
    del small

"""``guiders grid``."""

from guiders import APG, CFG, Adaptive
from guiders.commands import main
from guiders.pipelines.generation.grid import Axis
from PIL import Image


def test_grid(folder, tmp_path, capsys):
    out = tmp_path / "grids" / "g.png"

    def grid(*args, to=out):
        model = ["--model", str(folder), "--num-inference-steps", "2"]
        return main(["grid", *args, *model, "--out", str(to)])

    assert grid("red", "cat", "--x", "guider=none,cfg,apg(rescale=2)") == 0
    with Image.open(out) as sheet:
        assert sheet.width > 3 * 128
        assert sheet.height > 2 * 128
    out.unlink()
    assert grid("--y", "prompt=red heart, noto;cat", "--x", "scale=1,5", "--guider", "apg") == 0
    assert out.exists()
    plain = grid("red", "--guider", "apg(eta=1,rescale=0,momentum=0)", to=tmp_path / "a.png")
    assert plain == 0  # the scale is on the axis then
    out.unlink()
    capsys.readouterr()
    for wrong in (
        ["red", "cat", "--y", "scale=1,2"],  # which of the two?
        ["red", "--x", "guider=cfg", "--y", "prompt=cat;dog"],
        ["red", "--guider", "apg", "--x", "guider=cfg,apg"],
        ["red", "--guidance-scale", "3", "--x", "scale=1,2"],
        ["red", "--x", "guider=cfg(5),apg", "--y", "scale=1,2"],
        ["red", "--x", "guider=cfg,nothing"],
        ["red", "--x", "seed=-1"],
        ["red", "--x", "seed=99999999999999999999"],
        ["red", "--x", "scale="],
        ["red", "--x", "steps=2.5"],
    ):
        assert grid(*wrong) == 2
        assert capsys.readouterr().err.startswith("guiders: error: ")
        assert not out.exists()
    assert grid("red", "--x", "colour=1") == 2
    assert grid("red", "--x", "scale=a") == 2
    assert grid("--x", "seed=1,2") == 2
    assert grid("red", "--x", "seed=1", "--y", "seed=2") == 2
    assert grid("red", to="g.txt") == 2


def test_axes():
    assert Axis.parse("scale=1,7.5").values == (1, 7.5)
    assert Axis.parse("guider=cfg,apg(rescale=2,eta=1)").values == ("cfg", "apg(rescale=2,eta=1)")
    assert Axis.parse("prompt=a red heart, noto").values == ("a red heart, noto",)
    assert Axis.parse("prompt=a, b;c").values == ("a, b", "c")


def test_an_unguided_column_stays_unguided():
    from guiders.commands.grid import cell_of

    _, guider = cell_of({"adaptive": 0.9}, ["red"], {"guider": "none", "scale": 5.0})
    assert guider == CFG(1)
    _, guider = cell_of({"adaptive": 0.9}, ["red"], {"guider": "apg", "scale": 5.0})
    assert guider == APG(Adaptive(5, threshold=0.9))

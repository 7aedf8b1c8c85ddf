"""The package as it is installed: wheel and editable, from inside and outside the checkout."""

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import guiders
import pytest

ROOT = Path(__file__).parent.parent
ORDER = ["guidance", "samplers", "pipelines", "evals", "commands"]
# The rooms of each, in storeys: a file may import from the storeys below its own, and its own room.
STOREYS = {
    "guidance": [
        ["engine"], ["terms", "transforms"], ["scales"], ["references"], ["calibration"]
    ],
    "pipelines": [
        ["patch"], ["language"], ["presets"], ["rewards"], ["context"], ["attach"],
        ["generation"], ["align", "calibration"],
    ],
    "evals": [
        ["storage"], ["metrics"], ["features"], ["runs"], ["report"],
        ["calibration", "comparison", "tuning"],
    ],
}  # fmt: skip
SCRIPT = (
    "import guiders, guiders.guidance, guiders.samplers, guiders.commands, guiders.evals, "
    "guiders.models; print(guiders.__file__); print(guiders.CFG())"
)


@pytest.fixture(scope="session")
def wheel(tmp_path_factory):
    """A folder into which the wheel was installed."""
    out = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--quiet", "--no-cache-dir"]
    source = tmp_path_factory.mktemp("source") / "guiders"
    tracked = subprocess.run(
        ["git", "ls-files", "-z", "-co", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.split("\0")  # fmt: skip
    for name in filter(None, tracked):
        if (ROOT / name).is_file() and not name.startswith("tests/"):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    build = ["wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(out), str(source)]
    subprocess.run([*pip, *build], check=True)
    (built,) = out.glob("guiders-*.whl")
    subprocess.run(
        [*pip, "install", "--no-deps", "--target", str(out / "site"), str(built)], check=True
    )
    return out / "site"


def run(command, cwd, **environment):
    import os

    done = subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, env={**os.environ, **environment}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize("place", ["inside", "outside"])
def test_the_wheel(wheel, place, tmp_path):
    cwd = ROOT if place == "inside" else tmp_path
    where, cfg = run([sys.executable, "-c", SCRIPT], cwd, PYTHONPATH=str(wheel))
    assert Path(where).is_relative_to(wheel)
    assert cfg == "CFG scale 7.5"
    for command in (
        [sys.executable, "-m", "guiders"],
        [sys.executable, str(wheel / "bin" / "guiders")],
    ):
        assert run([*command, "list"], cwd, PYTHONPATH=str(wheel))[0] == "models"


@pytest.mark.parametrize("place", ["inside", "outside"])
def test_the_editable_install(place, tmp_path):
    cwd = ROOT if place == "inside" else tmp_path
    where, _ = run([sys.executable, "-c", SCRIPT], cwd)
    assert Path(where) == ROOT / "api" / "__init__.py"
    assert run([sys.executable, "-m", "guiders", "list"], cwd)[0] == "models"


def test_the_wheel_carries_the_models_and_the_licences(wheel):
    for name in ("unet", "vae", "text_encoder"):
        assert list((wheel / "guiders" / "models" / "emoji" / name).glob("*.safetensors"))
    (info,) = wheel.glob("guiders-*.dist-info")
    assert {p.name for p in (info / "licenses").iterdir()} == {"LICENSE", "NOTICE"}


@pytest.mark.quick
def test_imports_point_one_way():
    for layer, folder in enumerate(ORDER):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                # Two dots from a folder of a part are within that part, and three leave it.
                above = 1 + len(path.relative_to(ROOT).parts[:-1])
                if isinstance(node, ast.ImportFrom) and node.level == above:
                    names = [node.module] if node.module else [alias.name for alias in node.names]
                    for name in names:
                        other = name.split(".")[0]
                        assert other == "models" or ORDER.index(other) < layer, (path, other)


@pytest.mark.parametrize("part", STOREYS)
def test_rooms_import_from_the_storeys_below(part):
    storey = {room: n for n, rooms in enumerate(STOREYS[part]) for room in rooms}
    rooms = {p.parent.relative_to(ROOT / part).parts for p in (ROOT / part).rglob("*.py")}
    assert rooms == {(), *((room,) for room in storey)}
    for path in (ROOT / part).glob("*/*.py"):
        here = path.parent.name
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.level == 2:  # from this part
                names = [node.module] if node.module else [alias.name for alias in node.names]
                for other in (name.split(".")[0] for name in names):
                    above = other in storey and storey[other] >= storey[here]
                    assert not above, f"{path.relative_to(ROOT)} imports {other}"


@pytest.mark.quick
@pytest.mark.parametrize("part", STOREYS)
def test_no_files_of_a_room_import_each_other(part):
    """Not in a circle of any length, and not for the sake of types either."""
    for room in filter(Path.is_dir, (ROOT / part).iterdir()):
        graph = {path.stem: set() for path in room.glob("*.py")}
        for path in room.glob("[!_]*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.ImportFrom) and node.level == 1:
                    names = [node.module] if node.module else [each.name for each in node.names]
                    graph[path.stem] |= {name.split(".")[0] for name in names} & graph.keys()
        graphlib.TopologicalSorter(graph).prepare()


def test_guidance_needs_torch_only():
    script = "import sys, guiders.guidance as g; print('diffusers' in sys.modules)"
    assert run([sys.executable, "-c", script], ROOT) == ["False"]


@pytest.mark.quick
def test_everything_public_is_documented():
    for name in guiders.__all__:
        item = getattr(guiders, name)
        assert name == "__version__" or item.__doc__, name


@pytest.mark.quick
def test_the_support_page_is_that_of_this_version():
    from guiders import samplers
    from guiders.pipelines.attach import layouts

    page = (ROOT / "docs" / "support.md").read_text()
    for table in (layouts.FORMS, layouts.REFUSED, samplers.FAMILIES, samplers.REFUSED):
        assert [name for name in table if name not in page] == [], "run `make support`"
    assert "**no**" not in page

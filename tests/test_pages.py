"""What the pages tell a reader to do works as it stands there."""

import json
import re
import shlex
import sys
from pathlib import Path

import pytest
from guiders.commands import main

ROOT = Path(__file__).parent.parent


def blocks(page):
    """The languages and texts of a page's blocks of code, in order."""
    return re.findall(r"^```(\w+)\n(.*?)^```$", (ROOT / "docs" / page).read_text(), re.M | re.S)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder, from which modules are imported and forgotten again."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    yield tmp_path
    sys.modules.pop("mine", None)


def test_a_method_is_added_as_the_page_says(folder, capsys):
    names, drawn = {}, 0
    for language, text in blocks("add-a-method.md"):
        if text.startswith("# mine.py\n"):
            (folder / "mine.py").write_text(text)
        elif language == "python":
            exec(compile(text, "add-a-method.md", "exec"), names)
        elif language == "json":
            assert json.loads(text) == json.loads((folder / "mine.json").read_text())
        else:
            for line in text.splitlines():
                command, *words = shlex.split(line)
                assert command == "guiders"
                assert main([*words, "--num-inference-steps", "2"]) == 0, line
                drawn += 1
    assert len(list((folder / "out").glob("*.png"))) == drawn == 4
    assert names["run"].nfe == 18  # at two steps neither term guides
    assert "KeepMean" in capsys.readouterr().err


def test_a_file_that_was_not_imported_is_run_by_its_name(folder):
    from guiders.guidance import Guider

    text = dict(enumerate(text for _, text in blocks("add-a-method.md")))[0]
    (folder / "others.py").write_text(text)
    data = {"type": "others.py:Halved", "scale": 3, "share": 0.5}
    with pytest.raises(ValueError, match="functions=True"):
        Guider.from_dict(data)
    guider = Guider.from_dict(data, functions=True)
    assert Guider.from_dict(json.loads(json.dumps(guider.to_dict()))) == guider
    assert guider.to_dict()["type"] == "others.py:Halved"


@pytest.mark.parametrize("language", ["python", "sh"])
def test_the_page_shows_it_all(language):
    assert [text for kind, text in blocks("add-a-method.md") if kind == language]

"""The command line as such."""

import pytest
from guiders.commands import main


def test_the_version(capsys):
    with pytest.raises(SystemExit) as exit:
        main(["--version"])
    assert exit.value.code == 0
    assert capsys.readouterr().out.startswith("guiders ")


def test_list(capsys):
    assert main(["list"]) == 0
    said = capsys.readouterr().out
    for word in ("emoji", "apg(scale=10", "adaptive(threshold=0.999", "rescale(phi=0.7)", "unipc"):
        assert word in said

"""``guiders align`` as a person uses it, and misuses it."""

import csv
import re

import pytest
from guiders import APG, CFG, Adaptive
from guiders.commands import main, parser
from guiders.commands.align import settings_from
from guiders.pipelines.align import AlignSettings, Loss, Truncation, prompts
from guiders.pipelines.language.parse import parse_guider

FLAGS = "--reward brightness --max-steps 2 --batch-size 2 --num-inference-steps 3 --eval-prompts 1"


@pytest.fixture
def align(folder, tmp_path, capsys):
    """Run it with the tiny model; returns what it wrote to standard output and error."""

    def run(*args, code=0):
        out = tmp_path / "lora"
        words = tmp_path / "words.txt"
        words.write_text("red heart\ncat\n\nblue car\n")
        flags = [*FLAGS.split(), "--truncation", "all", "--prompts", str(words)]
        where = ["--model", str(folder), "--out", str(out), "--device", "cpu"]
        assert main(["align", *where, *flags, *map(str, args)]) == code
        return out, capsys.readouterr()

    return run


def test_a_run_and_what_it_leaves(align):
    out, said = align("--held-out-reward", "saturation", "--guider", "apg", "--guidance-scale", 3)
    assert said.out.strip().endswith("lora/pytorch_lora_weights.safetensors")
    assert "unseen prompts are trained with, too" in said.err  # three are too few to share
    names = {path.name for path in out.iterdir()}
    assert names >= {
        "pytorch_lora_weights.safetensors", "checkpoint.pt", "settings.json", "log.csv",
        "unseen.csv", "unseen-pictures.csv", "samples", "before-after.png",
    }  # fmt: skip
    with open(out / "unseen.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["0", "2"]
    assert all(0 <= float(row[key]) <= 1 for row in rows for key in ("reward", "held_out_reward"))
    settings = AlignSettings.load(out / "settings.json")
    assert settings.guider == APG(3)
    assert settings.truncation == Truncation("all")


def test_it_goes_on_where_it_stopped(align):
    align()
    _, said = align("--max-steps", 3)
    assert "going on at step 2" in said.err
    out, said = align("--rank", 2, code=2)
    assert "rank is 2, and the run in" in said.err
    with open(out / "log.csv", newline="") as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["1", "2", "3"]


@pytest.mark.parametrize(("args", "complaint"), [
    (["--reward", "beauty"], "reward is 'beauty'; allowed is one of emoji-clip"),
    (["--reward", "emoji-judge"], "never trained with"),
    (["--method", "ppo"], "method: expected one of alignprop.*, got 'ppo'"),
    (["--truncation-steps", "40", "--truncation", "fixed"], "steps: expected at most 3.*, got 40"),
    (["--prompts", "/nowhere.txt"], "prompts are '/nowhere.txt'; allowed is a text file"),
    (["--loss", "square"], "kind: expected one of linear, absolute, hinge.*, got 'square'"),
    (["--mixed-precision", "fp16"], "mixed_precision is 'fp16'"),
    (["--target-modules", "nose,ear"], "target_modules are nose, ear; allowed are names"),
    (["--eta", "3"], "eta: expected a number between 0 and 1.*, got 3.0"),
    (["--out", "/proc/here"], "out: expected a folder.*, got '/proc/here'"),
])  # fmt: skip
def test_mistakes_get_one_sentence_and_exit_code_two(align, args, complaint):
    out, said = align(*args, code=2)
    assert said.err.count("guiders: error:") == 1
    assert re.search(complaint, said.err)
    assert "Traceback" not in said.err
    assert not (out / "pytorch_lora_weights.safetensors").exists()


def read(*args):
    return settings_from(vars(parser().parse_args(["align", *args])))


def test_flags_as_settings():
    assert read() == AlignSettings(num_inference_steps=30)
    assert read("--guider", "none").guider == CFG(1)
    assert read("--guider", "cfg+adaptive").guider == CFG(Adaptive(5))
    assert read("--method", "draft").truncation == Truncation("all")
    refl = read("--method", "refl", "--target", "1.5", "--early-stop", "4")
    assert refl.num_inference_steps == 40
    assert refl.learning_rate == 1e-5
    assert refl.loss == Loss("hinge", 1.5, 1e-3)
    assert refl.truncation == Truncation("fixed", 1, early_stop=4)
    assert read("--target-modules", "to_q,to_k").target_modules == ("to_q", "to_k")
    assert read("--num-inference-steps", "8").truncation == Truncation(steps=4)
    assert read("--num-inference-steps", "1", "--truncation", "fixed").truncation.steps == 1
    with pytest.raises(ValueError, match=r"steps: expected at most 7.*, got 8\.0"):
        read("--num-inference-steps", "8", "--truncation-steps", "8")
    with pytest.raises(ValueError, match="scale: expected one value"):
        read("--guider", "cfg(3)")
        parse_guider("cfg(3)", 5)


def test_prompts_that_come_with_it():
    for name in prompts.builtin():
        train, unseen = prompts.read(name), prompts.read(f"{name}-unseen")
        assert not set(train) & set(unseen)
        names = {prompt.split(",")[0] for prompt in train}
        assert not names & {prompt.split(",")[0] for prompt in unseen}
    assert len(prompts.read("animals")) == 45


def test_the_model_knows_every_word_of_the_emoji_prompts():
    from guiders import models
    from guiders.pipelines.generation.vocabulary import unknown_words

    for prompt in prompts.read("emoji") + prompts.read("emoji-unseen"):
        assert not unknown_words(prompt, models.path("emoji"))


def test_prompts_of_your_own(tmp_path):
    words = [f"prompt {i}" for i in range(10)]
    train, unseen = prompts.split_off(words)
    assert sorted(train + unseen) == sorted(words)
    assert len(unseen) == 2
    assert prompts.split_off(words) == (train, unseen)
    (tmp_path / "empty.txt").write_text("\n \n")
    with pytest.raises(ValueError, match="which is empty; allowed is at least one line"):
        prompts.read(str(tmp_path / "empty.txt"))

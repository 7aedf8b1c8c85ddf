"""The trainer: resumed after a kill, stopped by a NaN, its LoRA used by a plain pipeline."""

import csv
import os
import random
import signal
import subprocess
import sys
import textwrap
import time

import pytest
import tiny
import torch
import zoo
from guiders import CFG
from guiders.pipelines.align import (
    METHODS,
    Adapter,
    AlignSettings,
    Loss,
    Trainer,
    Truncation,
    settings_for,
)
from guiders.pipelines.align.setup import trainable
from PIL import Image
from safetensors.torch import load_file

PROMPTS = ["red heart", "blue car", "cat"]
SMALL = {
    "max_steps": 4, "batch_size": 2, "num_inference_steps": 4, "learning_rate": 1e-2,
    "eval_every": 4, "save_every": 2, "eval_prompts": 1, "truncation": Truncation("uniform"),
}  # fmt: skip


def redness(images, prompts):
    return images[:, 0].mean(dim=(1, 2)) - images[:, 1].mean(dim=(1, 2))


def train(out, pipe=None, reward=redness, **changes):
    settings = AlignSettings(**{**SMALL, **changes})
    trainer = Trainer(pipe or tiny.sd(), reward, PROMPTS, settings, out, quiet=True)
    trainer.run()
    return trainer


def weights(out):
    return load_file(out / "pytorch_lora_weights.safetensors")


def table(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_it_raises_the_reward_and_keeps_what_it_did(tmp_path):
    trainer = train(tmp_path, max_steps=6, truncation=Truncation("all"))
    log, unseen = table(tmp_path / "log.csv"), table(tmp_path / "unseen.csv")
    assert [int(row["step"]) for row in log] == list(range(1, 7))
    assert [int(row["step"]) for row in unseen] == [0, 4, 6]
    assert float(unseen[-1]["reward"]) > float(unseen[0]["reward"])
    assert all(float(row["gradient_calls"]) == 4 for row in log)
    assert len(table(tmp_path / "unseen-pictures.csv")) == 3 * 2
    assert AlignSettings.load(tmp_path / "settings.json") == trainer.settings
    names = sorted(path.name for path in (tmp_path / "samples").iterdir())
    assert names == [f"step-{step:05d}.png" for step in (0, 4, 6)]
    with Image.open(tmp_path / "before-after.png") as picture:
        assert picture.width > 4 * 128
    assert not list(tmp_path.rglob(".*.part"))


def test_the_lora_loads_into_a_plain_pipeline(tmp_path):
    trainer = train(tmp_path, alpha=8)
    plain = tiny.sd()
    before = tiny.run(plain, guidance_scale=5)
    plain.load_lora_weights(tmp_path)
    after = tiny.run(plain, guidance_scale=5)
    with torch.no_grad():
        assert torch.allclose(after, tiny.run(trainer.pipe, guidance_scale=5), atol=1e-5)
    assert not torch.allclose(after, before, atol=1e-3)
    plain.unload_lora_weights()
    assert torch.equal(tiny.run(plain, guidance_scale=5), before)


def test_the_adapter_of_a_transformer(tmp_path):
    pipe = zoo.build("sd3")
    adapter = Adapter(pipe)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.fill_(0.1)
    expected = zoo.run("sd3", pipe)
    adapter.save(tmp_path)
    plain = zoo.build("sd3")
    plain.load_lora_weights(tmp_path)
    assert torch.allclose(zoo.run("sd3", plain), expected, atol=1e-5)


def test_equal_adapters_are_equal_files(tmp_path):
    adapter = Adapter(tiny.sd())
    found = set()
    for number in range(6):
        adapter.save(tmp_path / str(number))
        found.add((tmp_path / str(number) / "pytorch_lora_weights.safetensors").read_bytes())
    assert len(found) == 1


def test_a_pipeline_without_lora_loading(tmp_path):
    pipe = zoo.build("kandinsky22")
    adapter = Adapter(pipe)
    assert not hasattr(pipe, "load_lora_weights")
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.fill_(0.1)
    adapter.save(tmp_path)
    plain = zoo.build("kandinsky22")
    plain.unet.load_lora_adapter(
        tmp_path, prefix=None, weight_name="pytorch_lora_weights.safetensors"
    )
    assert torch.allclose(zoo.run("kandinsky22", plain), zoo.run("kandinsky22", pipe), atol=1e-5)


SCRIPT = """
    import sys, time
    import tiny
    from guiders.pipelines.align import AlignSettings, Trainer, Truncation

    def slow_redness(images, prompts):
        time.sleep(float(sys.argv[2]))
        return images[:, 0].mean(dim=(1, 2)) - images[:, 1].mean(dim=(1, 2))

    settings = AlignSettings(**eval(sys.argv[3]))
    Trainer(tiny.sd(), slow_redness, {prompts!r}, settings, sys.argv[1], quiet=True).run()
"""


def test_killed_and_resumed_is_uninterrupted(tmp_path):
    """A kill -9 in the middle; then bit for bit the weights, tables and pictures of one run."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    train(whole, max_steps=8)
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT).format(prompts=PROMPTS))
    settings = {**SMALL, "max_steps": 8}
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}

    def start(pause):
        command = [sys.executable, str(script), str(broken), str(pause), repr(settings)]
        return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)

    running = start(0.2)
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline and running.poll() is None:
        log = broken / "log.csv"
        if (broken / "checkpoint.pt").exists() and log.exists() and len(table(log)) >= 5:
            break
        time.sleep(0.02)
    assert running.poll() is None, running.stderr.read().decode()[-500:]
    running.send_signal(signal.SIGKILL)
    running.wait()
    done = torch.load(broken / "checkpoint.pt", weights_only=True)["step"]
    assert 2 <= done < 8
    assert not same(weights(broken), weights(whole))
    resumed = start(0)
    assert resumed.wait() == 0, resumed.stderr.read().decode()[-500:]
    assert same(weights(broken), weights(whole))
    for name in ("unseen.csv", "unseen-pictures.csv"):
        assert table(broken / name) == table(whole / name)
    for a, b in zip(table(broken / "log.csv"), table(whole / "log.csv"), strict=True):
        assert a["step"] == b["step"]
        assert a["reward"] == b["reward"]


def test_a_finished_run_goes_on_to_more_steps(tmp_path):
    train(tmp_path / "a", max_steps=2)
    train(tmp_path / "a", max_steps=4)
    train(tmp_path / "b", max_steps=4)
    assert same(weights(tmp_path / "a"), weights(tmp_path / "b"))


def test_other_settings_are_another_run(tmp_path):
    train(tmp_path, max_steps=1)
    with pytest.raises(ValueError, match=r"learning_rate is 0.5, and .* began with 0.01"):
        train(tmp_path, learning_rate=0.5)


class Spoilt:
    """A reward that is not a number from its ``when``-th call on."""

    def __init__(self, when):
        self.when, self.calls = when, 0

    def __call__(self, images, prompts):
        if torch.is_grad_enabled():
            self.calls += 1
        value = redness(images, prompts)
        return value * torch.nan if self.calls >= self.when else value


def test_a_nan_stops_it_and_loses_nothing(tmp_path):
    with pytest.raises(RuntimeError, match=r"reward is not finite at step 4; .* step 3 are kept"):
        train(tmp_path / "a", reward=Spoilt(5))  # the first call is the one before the first step
    train(tmp_path / "b", max_steps=3)
    assert same(weights(tmp_path / "a"), weights(tmp_path / "b"))


@pytest.mark.parametrize(("reward", "complaint"), [
    (Spoilt(1), "allowed are finite numbers"),
    (lambda x, p: x.mean(), r"allowed is a tensor \(2,\)"),
    (lambda x, p: x.detach().mean(dim=(1, 2, 3)), "no gradient"),
])  # fmt: skip
def test_a_reward_that_does_not_work_is_found_before_the_first_step(tmp_path, reward, complaint):
    with pytest.raises(ValueError, match=complaint):
        train(tmp_path, reward=reward)
    assert table(tmp_path / "log.csv") == []


@pytest.mark.parametrize("method", METHODS)
def test_every_method_takes_a_step(tmp_path, method):
    settings = settings_for(
        method, max_steps=1, batch_size=2, num_inference_steps=8, eval_prompts=1, eval_samples=1
    )
    Trainer(tiny.sd(), redness, PROMPTS, settings, tmp_path, quiet=True).run()
    (row,) = table(tmp_path / "log.csv")
    assert float(row["grad_norm"]) > 0
    expected = {"draft": 8, "draft-k": 1, "draft-lv": 3, "refl": 1, "drtune": 5}
    if method in expected:
        assert float(row["gradient_calls"]) == expected[method]


def test_accumulated_trajectories_are_one_batch(tmp_path):
    """Without chance in the truncation, two micro-batches step as their mean gradient says."""
    one = train(tmp_path / "a", max_steps=1, gradient_accumulation_steps=2,
                truncation=Truncation("fixed", 2))  # fmt: skip
    parts = []
    other = Trainer(tiny.sd(), redness, PROMPTS, one.settings, tmp_path / "b", quiet=True)
    with trainable(other.pipe):
        for micro in (other.micro_batch(0), other.micro_batch(1)):
            (_, loss, _), = other.accumulate(micro)  # fmt: skip
            parts.append(loss)
    gradient = torch.cat([p.grad.flatten() for p in other.adapter.parameters()])
    row = table(tmp_path / "a" / "log.csv")[0]
    assert float(row["loss"]) == pytest.approx(sum(parts), rel=1e-5)
    assert float(row["grad_norm"]) == pytest.approx(gradient.norm().item(), rel=1e-4)


def test_the_pull_towards_the_base(tmp_path):
    """Both penalties are zero at the base, and hold a run nearer to it."""
    sizes = {}
    for name, changes in {
        "free": {}, "kl": {"kl_weight": 10.0}, "weights": {"weight_penalty": 1.0},
    }.items():  # fmt: skip
        trainer = train(tmp_path / name, max_steps=3, truncation=Truncation("fixed", 2), **changes)
        sizes[name] = trainer.adapter.size().item()
    assert sizes["kl"] < sizes["free"]
    assert sizes["weights"] < sizes["free"]
    rows = [table(tmp_path / name / "log.csv")[0] for name in ("free", "kl", "weights")]
    assert len({row["loss"] for row in rows}) == 1


def test_the_size_of_the_change(tmp_path):
    pipe = tiny.sd()
    base = {k: v.clone() for k, v in pipe.unet.state_dict().items()}
    adapter = Adapter(pipe, rank=3, alpha=6)
    for parameter in adapter.parameters():
        torch.nn.init.normal_(parameter.data)
    expected = adapter.size().item()
    adapter.save(tmp_path)
    plain = tiny.sd()
    plain.load_lora_weights(tmp_path)
    plain.fuse_lora()
    plain.unload_lora_weights()
    fused = plain.unet.state_dict()
    assert sum((fused[k] - base[k]).square().sum().item() for k in base) == pytest.approx(
        expected, rel=1e-3
    )


def test_bfloat16_keeps_the_lora_in_float32(tmp_path):
    trainer = train(tmp_path, max_steps=2, mixed_precision="bf16")
    assert trainer.pipe.unet.dtype == trainer.pipe.vae.dtype == torch.bfloat16
    assert {p.dtype for p in trainer.adapter.parameters()} == {torch.float32}
    assert {v.dtype for v in weights(tmp_path).values()} == {torch.float32}
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="mixed_precision is 'fp16'; allowed without a GPU"):
            train(tmp_path / "b", mixed_precision="fp16")


def test_blocks_are_evaluated_again_with_the_same_result(tmp_path):
    train(tmp_path / "a", max_steps=2)
    train(tmp_path / "b", max_steps=2, checkpointing="blocks")
    a, b = weights(tmp_path / "a"), weights(tmp_path / "b")
    assert all(torch.allclose(a[name], b[name], atol=1e-6) for name in a)


def test_two_processes_are_one_of_both_batches(tmp_path):
    """``accelerate launch`` on two CPU processes: the gradient is the mean of theirs."""
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT).format(prompts=PROMPTS))
    settings = {**SMALL, "max_steps": 1, "truncation": None}
    text = repr(settings).replace("None", "Truncation('fixed', 2)")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
         str(script), str(tmp_path / "two"), "0", text],
        env=environment, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    one = AlignSettings(**{**SMALL, "max_steps": 1, "truncation": Truncation("fixed", 2)})
    trainer = Trainer(tiny.sd(), redness, PROMPTS, one, tmp_path / "one", quiet=True)
    norms = []
    with trainable(trainer.pipe):
        for process in (0, 1):
            micro = trainer.micro_batch(0, process)
            for _ in trainer.accumulate(micro):
                pass
            norms.append([p.grad.clone() for p in trainer.adapter.parameters()])
            trainer.optimizer.zero_grad()
    mean = torch.cat([(a + b).flatten() / 2 for a, b in zip(*norms, strict=True)])
    row = table(tmp_path / "two" / "log.csv")[0]
    assert float(row["grad_norm"]) == pytest.approx(mean.norm().item(), rel=1e-4)
    assert len(table(tmp_path / "two" / "log.csv")) == 1


@pytest.mark.parametrize("settings", [
    {"max_steps": 0}, {"batch_size": 1.5}, {"eta": 2}, {"mixed_precision": "fp8"},
    {"guider": 5}, {"truncation": Truncation("fixed", 51)}, {"height": 64}, {"rank": True},
    {"loss": "hinge"}, {"height": 4, "width": 4},
])  # fmt: skip
def test_settings_that_are_not_allowed(settings):
    with pytest.raises(ValueError, match=r".*: expected .*, got"):
        AlignSettings(**settings)


@pytest.mark.parametrize(
    ("steps", "refl", "drtune"),
    [(40, 10, (5, 5)), (30, 7, (5, 5)), (8, 2, (2, 5)), (4, 1, (1, 4)), (1, 0, (0, 1))],
)
def test_methods_fit_runs_that_are_shorter_than_theirs(steps, refl, drtune):
    """The early stop is in the last quarter, as ReFL's, and the evaluations are before it."""
    known = settings_for("refl", num_inference_steps=steps).truncation
    assert (known.early_stop, known.steps) == (refl, 1)
    known = settings_for("drtune", num_inference_steps=steps).truncation
    assert (known.early_stop, known.steps) == drtune
    rng = random.Random(0)
    for method in METHODS if steps > 2 else ():
        drawn = settings_for(method, num_inference_steps=steps).truncation.draw(steps, rng)
        assert drawn.steps <= set(range(drawn.stop + 1))
    with pytest.raises(ValueError, match="steps"):
        settings_for("drtune", num_inference_steps=4, truncation=Truncation("spaced", 5))


def test_settings_from_json():
    for method in METHODS:
        settings = settings_for(method, guider=CFG(3) + CFG(2))
        assert AlignSettings.from_dict(settings.to_dict()) == settings


@pytest.mark.parametrize(
    ("kind", "expected"), [("linear", -1.0), ("absolute", 1.5), ("hinge", 1.0)]
)
def test_losses(kind, expected):
    rewards = torch.tensor([0.0, 1.0, 2.0, 1.0])
    assert Loss(kind, 2 if kind == "hinge" else 2.5, 1)(rewards).item() == expected


def test_a_pipeline_that_has_an_adapter_already(tmp_path):
    pipe = tiny.sd()
    Adapter(pipe)
    with pytest.raises(ValueError, match="pipe has the adapter 'align' already; allowed is none"):
        train(tmp_path, pipe)


def test_layers_that_are_not_there(tmp_path):
    with pytest.raises(ValueError, match="target_modules are nowhere; allowed are names of layers"):
        train(tmp_path, target_modules=("nowhere",))

"""Fitting LinearAG, on numbers and on a tiny pipeline."""

import json
import re

import pytest
import tiny
import torch
from guiders import CFG, LinearAG, guided
from guiders.commands import main
from guiders.guidance import Coefficients
from guiders.pipelines.calibration.fit_linear_ag import fit_linear_ag, score, solve
from guiders.pipelines.generation.generate import sample
from guiders.pipelines.generation.settings import Settings

POLICY = ["true", "estimate", "true", "estimate", "none", "none"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "tiny"
    tiny.sd("ddim").save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def pipe():
    return tiny.sd("ddim")


def jobs(count, first=0, **settings):
    prompts = ["red heart", "blue car", "cat", "green apple"]
    settings = {"num_inference_steps": 6, **settings}
    return [Settings(prompts[i % 4], None, seed=first + i, **settings) for i in range(count)]


def test_weights_that_made_the_numbers_are_found():
    """Where u_t is exactly linear in c_t and the past, whether that is true or estimated."""
    generator = torch.Generator().manual_seed(0)
    made = torch.zeros(6, 7, dtype=torch.float64)
    made[1, :3] = torch.tensor([0.5, -1, 2])
    made[3] = torch.tensor([0.3, 0.1, 0.2, -0.4, 0.7, 1, -2])
    vectors = torch.randn(4, 3, 5000, generator=generator, dtype=torch.float64)  # c, r, u
    vectors[0, 1], vectors[2, 1] = vectors[0, 2], vectors[2, 2]
    c, r, _ = vectors.unbind(1)
    vectors[1, 2] = made[1, 0] * c[1] + made[1, 1] * c[0] + made[1, 2] * r[0]
    past = torch.stack([c[3], c[2], r[2], c[1], r[1], c[0], r[0]])  # r[1] is not u[1]
    vectors[3, 2] = made[3] @ past
    rows = vectors.flatten(0, 1)
    found = solve(rows @ rows.T, POLICY, None, 0.0)
    torch.testing.assert_close(found, made, rtol=1e-8, atol=1e-8)
    for index in (1, 3):
        assert score(rows @ rows.T, found, index) == pytest.approx((1, 1), abs=1e-10)
    worse = score(rows @ rows.T, found * 0.9, 3)  # a tenth is missed: 1 - 0.1^2
    assert worse[0] == pytest.approx(0.99, abs=1e-10)
    ridged = solve(rows @ rows.T, POLICY, None, 1e-6)
    torch.testing.assert_close(ridged, made, rtol=1e-4, atol=1e-5)
    short = solve(rows @ rows.T, POLICY, 1, 0.0)
    assert short.shape == (6, 3)
    torch.testing.assert_close(short[1], made[1, :3])


def test_copies_of_a_prediction_do_not_spoil_the_fit():
    """c_0 = u_0, as at an infinite noise level, leaves the products singular."""
    rows = torch.randn(12, 1000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rows[1] = rows[2] = rows[0]
    rows[5] = 2 * rows[3] - rows[0]
    found = solve(rows @ rows.T, POLICY, None, 0.0)
    assert found.isfinite().all()
    assert score(rows @ rows.T, found, 1)[0] == pytest.approx(1)


def test_a_pipeline_is_fitted_and_the_scores_are_those_of_its_use(pipe):
    fit = fit_linear_ag(pipe, jobs(12), 3.0, held_out=jobs(4, 100), batch_size=4, quiet=True,
                        policy=POLICY)  # fmt: skip
    known = fit.coefficients
    assert known.policy == tuple(POLICY)
    assert known.weights.shape == (6, 7)
    assert known.notes["scheduler"] == "DDIMScheduler"
    assert [one.step for one in fit.scores] == [1, 3]
    assert "of the gap" in str(fit)
    assert 0 < fit.scores[0].gap_deployed < 1
    assert fit.scores[0].gap_forced == pytest.approx(fit.scores[0].gap_deployed, rel=1e-6)
    # The step moves in proportion to the reference. So the latents after step 1, with u evaluated
    # there, estimated, or replaced by c, show how much of |u - c|^2 the estimate misses.
    cheap = CFG(3, reference=LinearAG(known))
    true, estimated, positive = (
        torch.cat([latents_after(pipe, guider, job, 1) for job in jobs(4, 100)])
        for guider in (CFG(3), cheap, CFG(lambda step: 1 if step.index else 3))
    )
    missed = (true - estimated).square().sum() / (true - positive).square().sum()
    # In float64 they agree to 1e-14; in float32 to 1e-7, whatever batches, threads and processor.
    assert float(1 - missed) == pytest.approx(fit.scores[0].gap_deployed, abs=1e-5)
    with guided(pipe, cheap, quiet=True) as run:
        tiny.run(pipe)
    assert run.nfe == 8  # 2 + 1 + 2 + 1 + 1 + 1


def latents_after(pipe, guider, job, index):
    """The latents (1, ...) after a step of the run of a job."""
    kept = []

    def keep(pipe, index, t, tensors):
        kept.append(tensors["latents"].double())
        return {}

    with guided(pipe, guider, quiet=True):
        sample(pipe, [job], output_type="latent", callback_on_step_end=keep)
    return kept[index]


def test_a_refit_on_its_own_paths_is_better_there(pipe):
    def gap(rounds):
        made = fit_linear_ag(pipe, jobs(12), 8.0, held_out=jobs(8, 100), batch_size=4,
                             rounds=rounds, policy=POLICY, quiet=True)  # fmt: skip
        return made.scores[-1].gap_deployed

    assert gap(1) > gap(0)


@pytest.mark.parametrize("space", ["x0", "output"])
def test_other_spaces_and_pipelines(space):
    pipe = tiny.sdxl("dpm++")
    fit = fit_linear_ag(pipe, jobs(8), 3.0, held_out=jobs(4, 100), space=space, history=1,
                        batch_size=4, quiet=True)  # fmt: skip
    assert fit.coefficients.weights.shape == (6, 3)
    with guided(pipe, CFG(3, reference=LinearAG(fit.coefficients)), quiet=True) as run:
        tiny.run(pipe)
    assert run.nfe == 8


def test_nonsense_is_refused(pipe):
    for words, settings in (
        ("ridge is -1; allowed is at least 0", {"ridge": -1}),
        ("rounds is -1", {"rounds": -1}),
        ("space is 'score'; allowed is one of eps, x0, output", {"space": "score"}),
        ("guidance_scale is 1;", {"guidance_scale": 1.0}),
        ("policy is true,estimate; allowed are 6 words", {"policy": ["true", "estimate"]}),
        ("one of them estimate", {"policy": ["true"] * 6}),
    ):
        with pytest.raises(ValueError, match=words):
            fit_linear_ag(pipe, jobs(1), quiet=True, **settings)
    with pytest.raises(ValueError, match="paths is 0; allowed is at least 1"):
        fit_linear_ag(pipe, [])
    with pytest.raises(ValueError, match="scheduler has further stages"):
        fit_linear_ag(tiny.sd("heun"), jobs(1), quiet=True)


def test_the_command(folder, tmp_path, capsys):
    prompts, out = tmp_path / "prompts.txt", tmp_path / "new" / "coef.safetensors"
    prompts.write_text("red heart\n\ncat\nblue car\ngreen apple\nhouse\n")

    def fit(*args, model=folder):
        return main(["fit", "linear-ag", "--model", str(model), "--prompts", str(prompts),
                     "--paths", "6", "--num-inference-steps", "6", "--out", str(out),
                     *map(str, args)])  # fmt: skip

    assert fit("--guidance-scale", 3, "--policy", "tetenn", "--scheduler", "euler") == 0
    printed = capsys.readouterr()
    assert printed.out.splitlines()[-1] == str(out)
    known = Coefficients.load(out)
    assert known.policy == tuple(POLICY)
    assert known.notes["scheduler"] == "EulerDiscreteScheduler"
    assert known.notes["held_out_paths"] == "2"
    scores = json.loads(known.notes["scores"])
    assert f"{scores[1]['gap_deployed']:.4f}" in printed.out
    config = tmp_path / "guider.json"
    CFG(3, reference=LinearAG(out)).save(config)
    draw = ["generate", "cat", "--model", str(folder), "--num-inference-steps", "6",
            "--guider-config", str(config), "--out", str(tmp_path / "pictures")]  # fmt: skip
    assert main([*draw, "--scheduler", "euler"]) == 0
    assert "8 evaluations" in capsys.readouterr().out
    assert main([*draw, "--scheduler", "dpm++-karras"]) == 2
    assert "LinearAG: sigma is " in capsys.readouterr().err
    assert fit() == 2
    assert "expected a new file, since this one exists" in capsys.readouterr().err
    out.unlink()
    for words, flags in (
        (
            "policy: expected a letter for each step, of t, e and n.*, got 'txt'",
            ["--policy", "txt"],
        ),
        ("out: expected a .safetensors file.*, got 'coef.bin'", ["--out", "coef.bin"]),
        ("paths: expected a whole number .*, got 0", ["--paths", 0]),
        ("prompts is 'missing.txt'; allowed is one of", ["--prompts", "missing.txt"]),
        ("scale: expected .*, got -3", ["--guidance-scale", -3]),
        ("num_inference_steps: expected .*, got 0", ["--num-inference-steps", 0]),
    ):
        assert fit(*flags) == 2
        assert re.search(words, capsys.readouterr().err)
    assert not out.exists()

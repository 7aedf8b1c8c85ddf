"""Guidance away from other prompts and classes."""

import pytest
import tiny
import torch
import zoo
from by_hand import PROMPTS, SOLVERS, ByHand, classify
from diffusers import DiffusionPipeline
from errors import error
from guiders import (
    CFG,
    Confusion,
    Negative,
    WeakModel,
    guided,
    models,
)
from tiny import attached


@pytest.mark.parametrize("solver", SOLVERS)
def test_confusion_with_autoguidance(solver):
    pipe = tiny.sd(solver)
    torch.manual_seed(5)
    weak = tiny.sd(solver).unet
    for parameter in weak.parameters():
        parameter.data.add_(0.02 * torch.randn_like(parameter))
    reference = Confusion(
        PROMPTS, classify, "latents", threshold=0.6, otherwise=WeakModel(weak), model=weak,
        gain="one",
    )  # fmt: skip
    ours, run = attached(pipe, CFG(3, reference=reference), guidance_scale=1.0)
    seen = set()
    kept = {}

    def rule(ask, first, level):
        c = ask(PROMPTS[:2])
        p = classify(c).softmax(dim=1)
        if first is level:  # the second stage of a step keeps the decision of the first
            kept["texts"] = []
            for row in range(2):
                wrong = [k for k in range(4) if k != row]
                worst = max(wrong, key=lambda k: p[row, k].item())
                kept["texts"].append(PROMPTS[worst] if p[row, row] < 0.6 else PROMPTS[row])
            seen.update(enumerate(kept["texts"]))
        r = ask(kept["texts"], weak)
        return c + 2 * (c - r)

    by_hand = ByHand(pipe).run(rule)
    assert {text != PROMPTS[row] for row, text in seen} == {True, False}, "now and then confused"
    assert run.nfe == 2 * len(run.records)
    assert error(ours, by_hand) < 1e-4


@pytest.mark.parametrize("solver", ["ddim", "dpm++"])
def test_confusion_mixed_with_cfg(solver):
    pipe = tiny.sd(solver)
    reference = Confusion(PROMPTS, classify, "latents", threshold=0.6, otherwise=Negative())
    ours, run = attached(pipe, CFG(3, reference=reference))

    def rule(ask, first, level):
        c, u = ask(PROMPTS[:2]), ask(["", ""])
        p = classify(c).softmax(dim=1)
        out = []
        for row in range(2):
            worst = max((k for k in range(4) if k != row), key=lambda k: p[row, k].item())
            texts = [PROMPTS[worst] if n == row else PROMPTS[n] for n in range(2)]
            if p[row, row] < 0.6:
                gap = (1 - p[row, row]) * (c[row] - ask(texts)[row])
            else:
                gap = c[row] - u[row]
            out.append(c[row] + 2 * gap)
        return torch.stack(out)

    assert error(ours, ByHand(pipe).run(rule)) < 1e-4
    assert run.nfe == 12


def test_confusion_of_classes():
    """DiT: the condition is a class; its pipeline has [class, null] in one forward."""
    pipe = zoo.build("dit")
    labels = (7, 107, 300, 400)
    reference = Confusion(labels, classify, "latents", gain="one", threshold=1.0)
    asked = []
    handle = pipe.transformer.register_forward_pre_hook(
        lambda _, args, kwargs: asked.append(kwargs["class_labels"].tolist()), with_kwargs=True
    )
    with guided(pipe, CFG(3, reference=reference), quiet=True) as run:
        both = zoo.run("dit", pipe)
        one = zoo.run("dit", pipe, rows=(1,))
    handle.remove()
    assert {label for labels_ in asked for label in labels_} <= set(labels)
    assert len({tuple(a) for a in asked}) > 2
    assert run.nfe == 8
    assert error(both[1], one[0]) < 1e-4
    with (
        guided(pipe, CFG(3, reference=Confusion((1, 2), classify, "latents")), quiet=True),
        pytest.raises(ValueError, match="an image's prompt is 7; allowed is one of the prompts"),
    ):
        zoo.run("dit", pipe)


class Worded(DiffusionPipeline):
    """Somebody's own pipeline of two passes, with prompts; negative first where it says so."""

    first = "positive"

    def __init__(self, unet, scheduler):
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler)

    @torch.no_grad()
    def __call__(self, prompt=PROMPTS[:2], guidance_scale=5.0, num_inference_steps=5):
        table = torch.randn(5, 16, 32, generator=torch.Generator().manual_seed(7))
        positive = table[[PROMPTS.index(text) for text in prompt]]
        self.scheduler.set_timesteps(num_inference_steps)
        x = tiny.latents(4)[: len(prompt)]
        for t in self.scheduler.timesteps:
            told = {"positive": positive, "negative": table[4:].expand(len(prompt), -1, -1)}
            roles = sorted(told, reverse=self.first == "positive")
            if guidance_scale <= 1:
                roles = ["positive"]
            said = {
                role: self.unet(x, t, encoder_hidden_states=told[role], return_dict=False)[0]
                for role in roles
            }
            output = said["positive"]
            if guidance_scale > 1:
                output = said["negative"] + guidance_scale * (output - said["negative"])
            x = self.scheduler.step(output, t, x, return_dict=False)[0]
        return x


class NegativeFirst(Worded):
    first = "negative"


@pytest.mark.parametrize("kind", [Worded, NegativeFirst])
@pytest.mark.parametrize("otherwise", [None, Negative()])
def test_confusion_where_the_passes_are_two_and_nobody_knows_the_pipeline(kind, otherwise):
    stock = tiny.sd("ddim")
    pipe = kind(stock.unet, stock.scheduler)
    pipe.set_progress_bar_config(disable=True)
    reference = Confusion(PROMPTS, classify, "latents", otherwise=otherwise, threshold=0.6)
    with guided(pipe, CFG(3, reference=reference), quiet=True) as run:
        first, again = pipe(), pipe()
        batch = torch.cat([pipe([text]) for text in PROMPTS[:1]])
    assert error(again, first) < 1e-5
    assert error(batch[0], first[0]) < 1e-4
    table = {b for call in run.calls for record in call.records for b in record.evaluations}
    assert table <= {1, 2, 3}
    plain = pipe(guidance_scale=1)
    assert error(first, plain) > 1e-3


def test_a_run_with_other_prompts_draws_the_same_random_numbers():
    pipe = tiny.sd("ddim")
    reference = Confusion(PROMPTS, lambda x0: torch.zeros(len(x0), 4), "latents", below=0.0)

    def draw(guider):
        torch.manual_seed(11)
        with guided(pipe, guider, quiet=True):
            latents = pipe("red heart", num_inference_steps=3, output_type="latent").images
        return latents, torch.rand(1)

    same, after = draw(CFG(3, reference=reference))
    plain, then = draw(CFG(1))
    assert error(same, plain) < 1e-6
    assert torch.equal(after, then)


@pytest.mark.parametrize(
    ("name", "rows"),
    [("sd-controlnet", (0, 1)), ("sd-img2img", (0, 1, 2)), ("sd-inpaint", (0, 1)),
     ("sdxl-controlnet", (0, 1)), ("sd3", (0, 1))],
)  # fmt: skip
def test_confusion_beside_pictures_and_controlnets(name, rows):
    """Other prompts are told with one image's picture, whatever the counts of both."""
    if name == "sd3":
        name, rows = "sdxl-img2img", (0, 1, 2)
    pipe = zoo.build(name)
    reference = Confusion(PROMPTS, classify, "latents", gain="one", threshold=1.0)
    with guided(pipe, CFG(3, reference=reference), quiet=True) as run:
        together = zoo.run(name, pipe, rows=rows)
        one = zoo.run(name, pipe, rows=rows[1:2])
    assert run.nfe > len(run.records)
    assert error(together[1], one[0]) < 2e-4


def test_every_prompt_is_encoded_once():
    pipe = tiny.sd("ddim")
    encoded = []
    pipe.text_encoder.register_forward_pre_hook(
        lambda _, args, kwargs: encoded.append(len(args[0] if args else kwargs["input_ids"])),
        with_kwargs=True,
    )
    reference = Confusion(PROMPTS, classify, "latents")
    with guided(pipe, CFG(3, reference=reference), quiet=True):
        tiny.run(pipe, guidance_scale=1.0)
    assert encoded == [1, 1, 1, 1, 2]  # the guider's, and those of the call


def test_prompts_are_needed_to_be_told_apart():
    pipe = zoo.build("flux")
    with (
        guided(pipe, CFG(3, reference=Confusion(PROMPTS, classify, "latents")), quiet=True),
        pytest.raises(ValueError, match="without a prompt"),
    ):
        zoo.run("flux", pipe)


def test_a_classifier_that_ships():
    pipe = models.load("emoji")
    pipe.set_progress_bar_config(disable=True)
    prompts = ("red heart", "blue heart", "banana")
    with guided(pipe, CFG(5, reference=Confusion(prompts, "emoji-clip")), quiet=True) as run:
        pipe("red heart", num_inference_steps=4, output_type="latent")
        pipe(["blue heart", "apple"], num_inference_steps=2, output_type="latent")
    assert 4 <= run.calls[0].nfe <= 8
    labels = Confusion(("food", "animal"), "emoji-classifier")
    with (
        guided(pipe, CFG(5, reference=labels), quiet=True),
        pytest.raises(ValueError, match="a prompt is 'animal'; allowed with the classifier"),
    ):
        pipe("food", num_inference_steps=2, output_type="latent")
    with (
        guided(pipe, CFG(5, reference=Confusion(prompts, "nowhere")), quiet=True),
        pytest.raises(ValueError, match="classifier is 'nowhere'; allowed is one of emoji-clip"),
    ):
        pipe("red heart", num_inference_steps=2, output_type="latent")

"""Networks of another quality beside a pipeline's own."""

import pytest
import tiny
import torch
from accelerate import cpu_offload
from errors import error
from guiders import (
    CFG,
    MPGD,
    Guider,
    Interval,
    WeakModel,
    guided,
    models,
)
from guiders.pipelines.patch.class_swap import restore, swap
from guiders.pipelines.patch.weak_models import load_network
from guiders.samplers import read_level
from tiny import attached


def test_a_weak_model_by_name_is_the_network(tmp_path):
    pipe = models.load("emoji")
    pipe.set_progress_bar_config(disable=True)
    options = {"num_inference_steps": 3, "output_type": "latent", "guidance_scale": 1.0}

    def draw(model):
        generator = torch.Generator().manual_seed(0)
        with guided(pipe, CFG(2, reference=WeakModel(model)), quiet=True):
            return pipe("red heart", generator=generator, **options).images

    named = draw("emoji-weak")
    with (
        pytest.raises(
            ValueError, match="reward is 'brightness' and an image's prompt is not known"
        ),
        guided(pipe, CFG(2) + MPGD(1.0, "brightness"), quiet=True),
    ):
        pipe(prompt_embeds=torch.zeros(1, 16, 192), num_inference_steps=2,
             negative_prompt_embeds=torch.zeros(1, 16, 192))  # fmt: skip
    assert torch.equal(named, draw(models.load("emoji-weak")))
    models.load("emoji-weak").save_pretrained(tmp_path / "unet")
    assert error(draw(str(tmp_path)), named) < 1e-5
    weak = load_network("emoji-weak", pipe.unet, torch.zeros(1))
    assert load_network("emoji-weak", pipe.unet, torch.zeros(1)) is weak
    assert (weak.dtype, weak.device) == (pipe.unet.dtype, torch.device("cpu"))


def test_a_weak_model_by_name_is_loaded_where_the_latents_are():
    """Under offloading the denoiser's parameters are elsewhere, or nowhere."""
    network = models.load("emoji").unet.to(torch.bfloat16)
    cpu_offload(network, execution_device=torch.device("cpu"))
    assert next(network.parameters()).device.type == "meta"
    weak = load_network("emoji-weak", network, torch.zeros(1))
    assert (weak.dtype, weak.device) == (torch.bfloat16, torch.device("cpu"))


@pytest.mark.parametrize("guidance_scale", [1, 7.5])
def test_a_weak_model_guides_with_the_same_prompt_and_needs_no_negative_branch(guidance_scale):
    pipe, weak = tiny.sd("ddim", "v_prediction"), tiny.sd("ddim").unet
    for parameter in weak.parameters():
        parameter.data.mul_(0.9)
    rows = {"main": 0, "weak": 0}
    for name, module in (("main", pipe.unet), ("weak", weak)):

        def count(module, args, name=name):
            rows[name] += len(args[0])

        module.register_forward_pre_hook(count)
    guider = CFG(Interval(2.5, low=0.5, high=6), reference=WeakModel(weak))
    ours, run = attached(pipe, guider, guidance_scale=guidance_scale)
    inside = sum(record.scales == [(2.5,)] * 2 for record in run.records)
    assert 0 < inside < 6
    assert rows == {"main": 12, "weak": 2 * inside}
    assert run.nfe == 6 + inside

    def both(original, network, x, t, **kwargs):
        sigma = read_level(pipe.scheduler, t).level.edm
        (strong,), (less,) = original(network, x, t, **kwargs), weak(x, t, **kwargs)
        return (strong + 1.5 * (strong - less) * (0.5 < sigma <= 6),)

    swap(pipe.unet, {"__call__": both})
    by_hand = tiny.run(pipe, guidance_scale=1)
    restore(pipe.unet)
    assert error(ours, by_hand) < 1e-5


def test_a_weak_model_of_another_parameterisation():
    """The same network, once as v and once rewritten as epsilon, is no guidance at all."""
    pipe = tiny.sd("ddim", "v_prediction")

    class AsEpsilon(torch.nn.Module):
        def forward(self, x, t, **kwargs):
            level = read_level(pipe.scheduler, t).level
            (v,) = type(unet).forward(unet, x, t, **kwargs)
            return (level.alpha * v + level.std * x,)

    unet = pipe.unet
    same = CFG(5, reference=WeakModel(AsEpsilon(), "epsilon"))
    other = CFG(5, reference=WeakModel(AsEpsilon()))
    plain = tiny.run(pipe, guidance_scale=1)
    assert error(attached(pipe, same)[0], plain) < 1e-4
    assert error(attached(pipe, other)[0], plain) > 0.1


def test_a_weak_model_is_a_network_or_the_name_of_one():
    with pytest.raises(ValueError, match=r"model: expected .*, got 7"):
        WeakModel(7)
    named = CFG(2, reference=WeakModel("emoji-weak"))
    assert Guider.from_dict(named.to_dict()) == named
    pipe = tiny.sd()
    with (
        guided(pipe, CFG(2, reference=WeakModel("nowhere")), quiet=True),
        pytest.raises(ValueError, match=r"model is 'nowhere'; allowed is emoji-weak, a folder"),
    ):
        tiny.run(pipe)
    with pytest.raises(ValueError, match="not stored as JSON"):
        CFG(2, reference=WeakModel(torch.nn.Linear(1, 1))).to_dict()


@pytest.mark.parametrize("kind", ["sd", "sdxl"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_a_weak_model_of_another_type_of_numbers(kind, dtype):
    """It is asked in its own, and stays as it is."""
    pipe, weak = getattr(tiny, kind)(), getattr(tiny, kind)().unet
    for parameter in weak.parameters():
        parameter.data.mul_(0.9)
    same, _ = attached(pipe, CFG(3, reference=WeakModel(weak)))
    weak.to(dtype)
    ours, _ = attached(pipe, CFG(3, reference=WeakModel(weak)))
    assert weak.dtype == dtype
    assert ours.dtype == same.dtype
    assert error(ours, same) < (1e-4 if dtype == torch.float64 else 0.05)
    back, _ = attached(pipe.to(dtype), CFG(3, reference=WeakModel(weak.float())))
    assert back.dtype == dtype
    assert error(back, same) < (1e-4 if dtype == torch.float64 else 0.3)


def test_a_weak_model_that_does_not_fit():
    pipe = tiny.sd("ddim")
    wide = tiny.sdxl().unet  # another width of the prompt, and further arguments

    class Other(torch.nn.Module):
        def __init__(self, shape):
            super().__init__()
            self.shape = shape

        def forward(self, x, t, **kwargs):
            return (x.new_zeros(self.shape),)

    for weak, words in (
        (wide, r"UNet2DConditionModel on cpu that cannot be called as the pipeline's UNet2D"),
        (torch.nn.Linear(8, 8), r"Linear on cpu .*unexpected keyword argument"),
        (Other((2, 3, 8, 8)), r"Other answers with the shape \(2, 3, 8, 8\); allowed is .*4, 8, 8"),
        (Other((2, 4, 4, 4)), r"Other answers with the shape \(2, 4, 4, 4\)"),
        (tiny.sd("ddim").unet.to("meta"), "on meta that cannot be called"),
        (pipe.unet, "is the UNet2DConditionModel of a pipeline that is guided"),
    ):
        guider = CFG(3, reference=WeakModel(weak))
        with guided(pipe, guider, quiet=True), pytest.raises(ValueError, match=words) as caught:
            tiny.run(pipe)
        assert "\n" not in str(caught.value)

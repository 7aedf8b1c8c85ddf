"""Methods of other people's on real pipelines: perturbations, changes of the positive branch, other
latents; written from outside of the library."""

from contextlib import contextmanager
from dataclasses import dataclass

import pytest
import tiny
import torch
from errors import error
from guiders import CFG, guided
from guiders.guidance import Branch, Config, Latents, Perturbation, Prepare, Reference


@pytest.fixture(autouse=True)
def registry(monkeypatch):
    """Each test's classes are its own."""
    monkeypatch.setattr(Config, "registry", dict(Config.registry))


def attached(pipe, guider, **options):
    with guided(pipe, guider, quiet=True) as run:
        return tiny.run(pipe, steps=4, **options), run


def test_a_perturbation_says_itself_how_it_is_applied_and_gives_inner_tensors():
    seen = []

    @dataclass(frozen=True)
    class WeakerMiddle(Perturbation):
        """The middle block's output times ``share``; what it was comes back."""

        share: float = 0.5

        @contextmanager
        def apply(self, network, inputs):
            inner = {}

            def weaken(module, given, output):
                inner["middle"] = output
                return self.share * output

            handle = network.mid_block.register_forward_hook(weaken)
            try:
                yield inner
            finally:
                handle.remove()

        def read(self, query, positive, answer, state):
            seen.append(answer.inner["middle"].shape)
            return answer

    pipe = tiny.sd("ddim")
    plain, _ = attached(pipe, CFG(1))
    same, _ = attached(pipe, CFG(3, reference=WeakerMiddle(1.0)))
    ours, run = attached(pipe, CFG(3, reference=WeakerMiddle(0.2)))
    assert error(same, plain) < 1e-6
    assert error(ours, plain) > 1e-3
    assert run.nfe == 8
    assert set(seen) == {(2, 16, 4, 4)}
    assert torch.equal(attached(pipe, CFG(1))[0], plain)


def test_a_perturbation_without_an_apply_is_refused_before_the_run():
    @dataclass(frozen=True)
    class Unknown(Perturbation):
        pass

    with pytest.raises(ValueError, match=r"expected .* apply.*, got 'Unknown'"):
        attached(tiny.sd("ddim"), CFG(3, reference=Unknown()))


@pytest.mark.parametrize("guider", [CFG(1), CFG(3)], ids=str)
def test_the_positive_branch_changed_by_a_second_prompt_told_to_the_same_forward(guider):
    """Away from the negative prompt in the embeddings: what the pipeline does with those itself."""

    @dataclass(frozen=True)
    class Away(Perturbation):
        by: float

        @contextmanager
        def apply(self, network, inputs):
            other = inputs.beside.kwargs["encoder_hidden_states"]
            assert torch.equal(inputs.beside.x, inputs.x)

            def move(module, args, kwargs):
                own = kwargs["encoder_hidden_states"]
                return args, {**kwargs, "encoder_hidden_states": own + self.by * (own - other)}

            handle = network.register_forward_pre_hook(move, with_kwargs=True)
            try:
                yield
            finally:
                handle.remove()

    @dataclass(frozen=True)
    class AwayFromNegative(Prepare):
        by: float = 0.5

        def positive(self, step):
            return Branch("positive", change=Away(self.by), beside="negative")

    pipe = tiny.sd("ddim")
    ours, run = attached(pipe, guider | AwayFromNegative(), negative_prompt=["dog", "sun"])
    prompts = ["red heart", "blue car"]
    own, other = pipe.encode_prompt(prompts, "cpu", 1, True, ["dog", "sun"])
    with guided(pipe, guider, quiet=True):
        expected = pipe(
            prompt_embeds=own + 0.5 * (own - other), negative_prompt_embeds=other,
            num_inference_steps=4, latents=tiny.latents(), output_type="latent",
        ).images  # fmt: skip
    plain, _ = attached(pipe, guider, negative_prompt=["dog", "sun"])
    assert error(expected, plain) > 1e-3
    assert error(ours, expected) < 1e-5
    assert run.nfe == (4 if guider == CFG(1) else 8)
    with pytest.raises(ValueError, match="negative branch that the guider needs"):
        attached(pipe, guider | AwayFromNegative(), guidance_scale=1)


def test_a_change_of_the_positive_branch_of_some_images_alone():
    @dataclass(frozen=True)
    class Halved(Perturbation):
        @contextmanager
        def apply(self, network, inputs):
            handle = network.mid_block.register_forward_hook(lambda module, given, out: 0.5 * out)
            try:
                yield
            finally:
                handle.remove()

    @dataclass(frozen=True)
    class Half(Prepare):
        def positive(self, step):
            return Branch("positive", change=Halved())

    pipe = tiny.sd("ddim")
    mixed, _ = attached(pipe, [CFG(4), CFG(4) | Half()])
    plain, _ = attached(pipe, CFG(4))
    changed, _ = attached(pipe, CFG(4) | Half())
    assert error(mixed[0], plain[0]) < 1e-6
    assert error(mixed[1], changed[1]) < 1e-6
    assert error(changed[1], plain[1]) > 1e-4


def test_a_branch_at_other_latents():
    @dataclass(frozen=True)
    class Scaled(Latents):
        by: float

        def at(self, x, step, images):
            return self.by * x

    @dataclass(frozen=True)
    class Elsewhere(Reference):
        by: float = 0.5

        def branch(self):
            return Branch("positive", elsewhere=Scaled(self.by))

    pipe, seen = tiny.sd("ddim"), []
    plain, _ = attached(pipe, CFG(1))
    handle = pipe.unet.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    ours, run = attached(pipe, CFG(2, reference=Elsewhere()))
    handle.remove()
    same, _ = attached(pipe, CFG(2, reference=Elsewhere(1.0)))
    assert error(same, plain) < 1e-6
    assert error(ours, plain) > 1e-3
    assert run.nfe == 8
    assert torch.allclose(seen[1], 0.5 * seen[0])

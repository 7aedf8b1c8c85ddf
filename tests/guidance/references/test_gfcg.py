"""Gradient-free classifier guidance, with networks and classifiers of known answers."""

import pytest
import torch
from guiders import CFG, Condition, Confusion, Context, Guider, Interval, Negative, WeakModel
from guiders.guidance import NEGATIVE, POSITIVE, Denoiser, Prediction, Query, Readout
from known import step

CLASSES = ("a", "b", "c")


class World(Context):
    """Three classes, whose predictions are unit vectors; images by what they are asked to be."""

    def __init__(self, *prompts):
        self.prompts = prompts
        self.conditions = {name: Condition(name) for name in CLASSES}
        self.asked = []

    def condition(self, prompt):
        return self.conditions[prompt]

    def network(self, q, requests):
        answers = {}
        for branch, rows in requests.items():
            self.asked.append((str(branch), list(rows)))
            outputs = []
            for row in rows:
                if branch == NEGATIVE:
                    outputs.append(torch.full((3,), 1 / 3))
                    continue
                name = self.prompts[row] if branch.condition == "positive" else (
                    branch.condition.name)  # fmt: skip
                weak = 0.5 if branch.model is not None else 1.0
                outputs.append(weak * torch.eye(3)[CLASSES.index(name or "a")])
            answers[branch] = Prediction(q.x[list(rows)], torch.stack(outputs), Readout(0.0, 1.0))
        return answers


def sees(*rows):
    """A classifier that gives fixed probabilities to the images in order."""
    table = torch.tensor(rows)

    def classify(x0):
        return table[: len(x0)].log()

    return classify


def confusion(classifier, **settings):
    return Confusion(CLASSES, classifier, "latents", **settings)


def run(guider, world, sigma=1.0):
    batch = len(world.prompts)
    denoiser = Denoiser(guider, batch, world)
    return denoiser(Query(torch.zeros(batch, 3), step(sigma=sigma)), world.network)


def test_a_sure_image_is_its_own_and_pays_nothing():
    world = World("a")
    guider = CFG(5, reference=confusion(sees([1.0, 0.0, 0.0])))
    result = run(guider, world)
    assert torch.equal(result.output, torch.eye(3)[:1])
    assert world.asked == [("positive", [0])]
    assert result.record.evaluations == [1]
    assert result.record.skipped == [0]


@pytest.mark.parametrize(
    ("gain", "factor"),
    [("confusion", 0.7), ("ratio", 0.5 / 0.8), ("margin", (0.9 - 0.3) / 0.9), ("one", 1.0)],
)
def test_the_reference_is_the_likeliest_wrong_class(gain, factor):
    world = World("a", "b")
    classify = sees([0.3, 0.5, 0.2], [0.01, 0.98, 0.01])
    guider = CFG(3, reference=confusion(classify, gain=gain, threshold=0.9))
    result = run(guider, world)
    expected = torch.tensor([[1 + 2 * factor, -2 * factor, 0.0], [0.0, 1.0, 0.0]])
    torch.testing.assert_close(result.output, expected)
    assert world.asked == [("positive", [0, 1]), ("'b'", [0])]
    assert result.record.evaluations == [2, 1]
    assert result.record.scales[0][0] == pytest.approx(1 + 2 * factor)


def test_mixed_with_cfg_it_costs_what_cfg_costs():
    world = World("a", "b")
    classify = sees([0.3, 0.2, 0.5], [0.0, 1.0, 0.0])
    guider = CFG(3, reference=confusion(classify, otherwise=Negative(), gain="one"))
    result = run(guider, world)
    third = torch.tensor([[3.0, 0.0, -2.0], [-2 / 3, 3 - 2 / 3, -2 / 3]])
    torch.testing.assert_close(result.output, third)
    assert result.record.evaluations == [2, 2]
    assert world.asked == [("positive", [0, 1]), ("'c'", [0]), ("negative", [1])]


def test_with_autoguidance_the_weak_model_is_asked_for_the_wrong_class():
    weak = torch.nn.Identity()
    world = World("a", "b")
    classify = sees([0.3, 0.2, 0.5], [0.0, 1.0, 0.0])
    reference = confusion(classify, otherwise=WeakModel(weak), model=weak, gain="one")
    result = run(CFG(3, reference=reference), world)
    expected = torch.tensor([[3.0, 0.0, -1.0], [0.0, 2.0, 0.0]])
    torch.testing.assert_close(result.output, expected)
    assert result.record.evaluations == [2, 2]


def test_two_classes_with_exact_scores_are_cfg():
    """D_null = p_y D_y + p_r D_r, so that scale - 1 = s / p_r of CFG is GFCG with s."""
    p = 0.35  # of the wrong class
    d = torch.eye(3)
    null = (1 - p) * d[0] + p * d[1]
    world = World("a")
    guider = CFG(1 + 2.0, reference=confusion(sees([1 - p, p, 0.0]), gain="one"))
    cfg = d[0] + 2.0 / p * (d[0] - null)
    torch.testing.assert_close(run(guider, world).output[0], cfg)


def test_above_a_noise_level_nothing_is_confused():
    def classify(x0):
        raise AssertionError("nobody asks")

    world = World("a")
    plain = run(CFG(3, reference=confusion(classify, below=0.5)), world)
    assert torch.equal(plain.output, torch.eye(3)[:1])
    mixed = run(CFG(3, reference=confusion(classify, below=0.5, otherwise=Negative())), World("a"))
    torch.testing.assert_close(mixed.output, torch.tensor([[1 + 4 / 3, -2 / 3, -2 / 3]]))


def test_the_classifier_looks_every_so_often():
    looks = []

    def classify(x0):
        looks.append(len(x0))
        return torch.tensor([[0.3, 0.5, 0.2]]).log()

    world = World("a")
    denoiser = Denoiser(CFG(3, reference=confusion(classify, every=3)), 1, world)
    outputs = [denoiser(Query(torch.zeros(1, 3), step(i)), world.network).output for i in range(7)]
    assert len(looks) == 3
    assert all(torch.equal(out, outputs[0]) for out in outputs)


def test_other_images_prompts_are_not_for_this_one():
    """Prompts of the images that are not on the list count for their own image alone."""

    class Reader(World):
        def classifier(self, name, prompts):
            table = {"a": 3.0, "b": 2.0, "c": 2.5}
            return lambda x0: torch.tensor([[table[p] for p in prompts]] * len(x0))

    reference = Confusion(("b", "a"), "reader", threshold=1.0, gain="one")
    reference = reference.replace(every=2)
    world = Reader("c", "a")
    world.decode = lambda x0: x0
    together = run(CFG(3, reference=reference), world)
    for row, prompt in enumerate(("c", "a")):
        alone = Reader(prompt)
        alone.decode = lambda x0: x0
        torch.testing.assert_close(
            run(CFG(3, reference=reference), alone).output[0], together.output[row]
        )
    assert ("'c'", [1]) not in world.asked  # to which image 1 is likest of all but its own
    # and an index that was kept means the same when other images are active
    world = Reader("c", "a")
    world.decode = lambda x0: x0
    gated = CFG(lambda s: [1.0 if s.index == 1 else 3.0, 3.0], reference=reference)
    denoiser = Denoiser(gated, 2, world)
    outputs = [denoiser(Query(torch.zeros(2, 3), step(i)), world.network).output for i in range(2)]
    torch.testing.assert_close(outputs[1][1], outputs[0][1])


def test_what_diagnosis_evaluates_is_counted_where_it_is_used():
    classify = sees([0.3, 0.2, 0.5], [0.0, 1.0, 0.0])
    guider = CFG(3, reference=confusion(classify, otherwise=Negative(), gain="one"))
    world = World("a", "b")
    denoiser = Denoiser(guider, 2, world, diagnose=True)
    record = denoiser(Query(torch.zeros(2, 3), step()), world.network).record
    assert record.evaluations == [2, 2]


def test_a_classifier_that_breaks_stops_the_run():
    with pytest.raises(ValueError, match="NaN or infinite logits"):
        run(CFG(2, reference=confusion(lambda x0: torch.full((1, 3), torch.nan))), World("a"))


def test_a_temperature_makes_it_less_sure():
    world = World("a")
    logits = torch.tensor([[2.0, 1.0, 0.0]])
    guider = CFG(2, reference=confusion(lambda x0: logits, temperature=2.0))
    p = (logits / 2).softmax(dim=1)[0, 0].item()
    assert run(guider, world).output[0, 1].item() == pytest.approx(-(1 - p))


def test_gates_and_other_terms_go_with_it():
    world = World("a", "b")
    classify = sees([0.3, 0.5, 0.2], [0.3, 0.4, 0.3])
    guider = CFG(Interval(3, high=0.5), reference=confusion(classify)) + CFG(2)
    result = run(guider, world)  # sigma 1: only CFG acts
    assert result.record.evaluations == [2, 2]
    assert world.asked == [("positive", [0, 1]), ("negative", [0, 1])]
    result = run(guider, world, sigma=0.4)
    assert result.record.evaluations == [3, 3]


def test_complaints():
    with pytest.raises(ValueError, match="at least two texts or classes"):
        Confusion(["a"])
    with pytest.raises(ValueError, match=r"classifier: expected a function.*, got 'emoji-clip'"):
        Confusion(CLASSES, "emoji-clip", space="latents")
    with pytest.raises(ValueError, match=r"the classifier gave \(1, 2\); allowed are logits"):
        run(CFG(2, reference=confusion(lambda x0: torch.zeros(1, 2))), World("a"))
    with pytest.raises(ValueError, match=r"an image's prompt is None"):
        run(CFG(2, reference=confusion(sees([1.0, 0, 0]))), World(None))
    with pytest.raises(ValueError, match=r"otherwise: expected .*, got 3"):
        confusion(sees([1.0, 0, 0]), otherwise=3)
    with pytest.raises(ValueError, match=r"classifier is a function, which is not stored"):
        CFG(2, reference=confusion(sees([1.0, 0, 0]))).to_dict()
    reference = Confusion(("a", "b"), "clip", otherwise=Negative(), model="emoji-weak")
    named = CFG(2, reference=reference)
    assert Guider.from_dict(named.to_dict()) == named


def test_the_plan_knows_the_most_it_can_cost():
    guider = CFG(3, reference=Confusion(CLASSES, "clip", otherwise=Negative()))
    denoiser = Denoiser(guider, 2, World("a", "b"))
    most = denoiser.plan(step()).at_most()
    assert {str(branch): rows for branch, rows in most.items()} == {
        "positive": [0, 1], "negative": [0, 1],
    }  # fmt: skip
    alone = Denoiser(CFG(3, reference=Confusion(CLASSES, "clip")), 2, World("a", "b"))
    assert sum(map(len, alone.plan(step()).at_most().values())) == 4
    assert POSITIVE in most

"""One thread for each of several workers, and the support page from what the tests found.

``pytest --support docs/support.md`` writes the page. A test says what it shows by a marker,
``@pytest.mark.support("batch = loop")``, and by its parameter ``name`` of what it shows it.
"""

import os
from collections import defaultdict
from pathlib import Path

import hypothesis
import pytest

# The same examples everywhere, however long they take on a machine with other things to do.
hypothesis.settings.register_profile("guiders", deadline=None, derandomize=True)
hypothesis.settings.load_profile("guiders")

# Workers of pytest-xdist share the cores, and so do the processes that they start. This must be
# said before torch is imported; who wants other numbers of threads gives the variable.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

COLUMNS = (  # of the table of pipelines
    "CFG is its own",
    "scale 1 is unguided",
    "one forward, bit-exact",
    "evaluations skipped",
    "batch = loop",
    "scale per image",
    "restored",
    "bfloat16",
)
SCHEDULERS = "schedulers"  # what a test shows that reads a scheduler
WORDS = {"passed": "yes", "failed": "**no**", "skipped": "-"}
outcomes: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))


def pytest_addoption(parser):
    parser.addoption("--support", type=Path, help="write the table of pipelines and schedulers")


def pytest_itemcollected(item):
    for mark in item.iter_markers("support"):
        (shown,) = mark.args
        if shown not in (*COLUMNS, SCHEDULERS):
            raise pytest.UsageError(f"{item.nodeid} shows {shown!r}; expected one of {COLUMNS}")
        # a property, since it travels with the report from a worker
        item.user_properties.append(("support", [shown, item.callspec.params["name"]]))


def pytest_runtest_logreport(report):
    if report.when == "call" or report.outcome != "passed":
        for kind, value in report.user_properties:
            if kind == "support":
                shown, name = value
                outcomes[shown][name].add(report.outcome)


def pytest_sessionfinish(session):
    target = session.config.getoption("--support")
    if target and not hasattr(session.config, "workerinput"):  # all reports come to the first
        target.write_text(page())


def outcome(shown, name):
    """The worst of all cases."""
    found = outcomes[shown][name]
    return next((worst for worst in ("failed", "passed") if worst in found), "skipped")


def page():
    """The page, in Markdown."""
    import zoo
    from guiders.pipelines.attach.layouts import FORMS, REFUSED
    from guiders.samplers import REFUSED as REFUSED_SCHEDULERS

    kinds = {name: type(zoo.build(name)).__name__ for name in outcomes[COLUMNS[0]]}
    lines = [
        "# What a guider works with",
        "",
        "This page is written by `make support` from the results of the tests: tiny pipelines of "
        "the real classes with random weights, in whole runs of four steps on a CPU.",
        "",
        "## Pipelines",
        "",
        "- *CFG is its own*: with `CFG(5)` the latents are those of the pipeline's own guidance, "
        "to 1e-5 in float32 (with `KeepNorm()` for QwenImage and Lumina2, which rescale).",
        "- *scale 1 is unguided*: `CFG(1)` gives the pipeline's own unguided latents and evaluates "
        "nothing else.",
        "- *one forward, bit-exact*: what is in both halves comes out unchanged; a dash where the "
        "pipeline evaluates its branches in two forwards.",
        "- *evaluations skipped*: counted by a hook on the network.",
        "- *bfloat16*: a whole run is no further from float64 than the pipeline's own (a margin of "
        "1.3 for chance).",
        "",
        f"| pipeline | variant | {' | '.join(COLUMNS)} |",
        f"|---|---|{'---|' * len(COLUMNS)}",
    ]
    for name, kind in sorted(kinds.items(), key=lambda item: item[::-1]):
        cells = [WORDS[outcome(shown, name)] for shown in COLUMNS]
        lines.append(f"| `{kind}` | {name} | {' | '.join(cells)} |")
    untried = sorted(set(FORMS) - set(kinds.values()))
    lines += [
        "",
        "A pipeline that is not listed is learnt from its first evaluation, which then costs both "
        "branches, or refused: what reaches the scheduler is compared with the guided prediction "
        f"at every step. Known by their code but not tried here: {', '.join(untried) or 'none'}.",
        "",
        "Pipelines with a place for a guider of their own (Modular Diffusers; HunyuanImage, "
        "HunyuanVideo 1.5, MotifVideo) take `to_diffusers(guider, pipe.scheduler)`.",
        "",
        "Refused, and why:",
        "",
        *(f"- `{name}`: {reason}" for name, reason in sorted(REFUSED.items())),
        "- `Kandinsky3Pipeline` in half precision: its (s + 1) c - s u loses digits of any guided "
        "prediction",
        "- `...PAG...Pipeline`: the stock pipeline with a guider does it",
        "",
        "## Schedulers",
        "",
        "The noise level and x0 that a guider reads before each step agree with the scheduler's "
        "own code (`tests/samplers/test_every_scheduler.py`) for:",
        "",
        ", ".join(f"`{name}`" for name in sorted(schedulers())) + ".",
        "",
        "Refused, and why:",
        "",
        *(f"- `{name}` {reason}" for name, reason in sorted(REFUSED_SCHEDULERS.items())),
    ]
    return "\n".join(lines) + "\n"


def schedulers():
    """The supported schedulers for which no test failed."""
    from guiders.samplers import FAMILIES

    return {name for name in FAMILIES if outcome(SCHEDULERS, name) == "passed"}

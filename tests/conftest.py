"""``pytest --support docs/support.md`` writes the support page from what the tests found."""

from collections import defaultdict
from pathlib import Path

COLUMNS = {  # a test of tests/pipelines/test_every_pipeline.py: what it shows
    "test_a_whole_run_of_cfg_is_the_pipelines_own": "CFG is its own",
    "test_scale_one_is_the_pipelines_own_unguided_output": "scale 1 is unguided",
    "test_two_equal_halves_are_bit_for_bit_the_half": "one forward, bit-exact",
    "test_rows_are_really_skipped": "evaluations skipped",
    "test_a_batch_is_two_of_one": "batch = loop",
    "test_a_scale_for_each_image": "scale per image",
    "test_it_is_restored_and_a_second_run_is_the_first": "restored",
    "test_half_precision_is_no_further_from_the_truth": "bfloat16",
}
WORDS = {"passed": "yes", "failed": "**no**", "skipped": "-"}
outcomes: dict[str, dict[str, str]] = defaultdict(dict)


def pytest_addoption(parser):
    parser.addoption("--support", type=Path, help="write the table of pipelines and schedulers")


def pytest_runtest_logreport(report):
    if report.when == "call" or report.outcome != "passed":
        path, _, test = report.nodeid.partition("::")
        name, _, case = test.partition("[")
        if "test_every" in path and case:
            outcomes[name][case.removesuffix("]")] = report.outcome


def pytest_sessionfinish(session):
    if target := session.config.getoption("--support"):
        target.write_text(page())


def page():
    """The page, in Markdown."""
    import zoo
    from guiders.pipelines.form import FORMS, REFUSED
    from guiders.samplers import REFUSED as REFUSED_SCHEDULERS

    names = list(outcomes["test_a_whole_run_of_cfg_is_the_pipelines_own"])
    kinds = {name: type(zoo.build(name)).__name__ for name in names}
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
        f"| pipeline | variant | {' | '.join(COLUMNS.values())} |",
        f"|---|---|{'---|' * len(COLUMNS)}",
    ]
    for name, kind in sorted(kinds.items(), key=lambda item: item[1]):
        cells = [WORDS[outcomes[test].get(name, "skipped")] for test in COLUMNS]
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

    failed = {
        name
        for cases in outcomes.values()
        for case, outcome in cases.items()
        for name in FAMILIES
        if outcome == "failed" and name in case
    }
    tried = {
        name for cases in outcomes.values() for case in cases for name in FAMILIES if name in case
    }
    return tried - failed

"""StepAG: the share of the run that is guided."""

from guiders import CFG, StepAG
from guiders.guidance import NEGATIVE, Denoiser
from known import step


def test_step_ag_guides_the_first_share_of_the_evaluations():
    def guided(share, total=10):
        denoiser = Denoiser(CFG(StepAG(5, share)), 1)
        return [NEGATIVE in denoiser.plan(step(i, total)).branches for i in range(total)]

    assert guided(0.3) == [True] * 3 + [False] * 7
    assert guided(0) == [False] * 10
    assert guided(1) == [True] * 10
    assert sum(guided(0.5, total=5)) == 2  # 2.5 is rounded to the even number

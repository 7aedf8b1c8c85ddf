"""Autoguidance by several weak models."""

import torch
from guiders import CFG
from guiders.guidance import Denoiser, Query, Readout
from known import step

C, U = torch.tensor([[1.0, 2, 2]]), torch.tensor([[0.5, 1, -1]])


def test_several_weak_models_add_up():
    """D_m + sum_i (w_i - 1) (D_m - D_i), the appendix of autoguidance."""
    from guiders import WeakModel
    from guiders.guidance import Prediction

    weak = [torch.nn.Identity(), torch.nn.Identity()]
    outputs = {weak[0]: U, weak[1]: torch.tensor([[0.1, 0.2, 0.3]])}

    def network(q, requests):
        return {
            b: Prediction(q.x, C if b.model is None else outputs[b.model], Readout(0.0, 1.0))
            for b in requests
        }

    guider = CFG(2.5, reference=WeakModel(weak[0])) + CFG(1.3, reference=WeakModel(weak[1]))
    result = Denoiser(guider, 1)(Query(C, step()), network)
    expected = C + 1.5 * (C - outputs[weak[0]]) + 0.3 * (C - outputs[weak[1]])
    torch.testing.assert_close(result.output, expected)
    assert result.record.evaluations == [3]

"""What a network is called with, row by row."""

import pytest
import torch


def test_other_prompts_keep_what_a_distilled_network_is_told():
    """Flux's guidance is an argument of its transformer, not a part of the prompt."""
    from guiders.pipelines.patch.call_arguments import Inputs

    x, t = torch.zeros(2, 4), torch.ones(2)
    own = Inputs((), {"hidden_states": x, "timestep": t, "guidance": torch.full((2,), 3.5),
                      "encoder_hidden_states": torch.zeros(2, 5)})  # fmt: skip
    other = Inputs((), {"hidden_states": x[:1], "timestep": t[:1], "guidance": torch.ones(1),
                        "encoder_hidden_states": torch.ones(1, 5)})  # fmt: skip
    told = own.told([None, other]).kwargs
    assert told["guidance"].tolist() == [3.5, 3.5]
    assert told["encoder_hidden_states"].mean(dim=1).tolist() == [0.0, 1.0]
    with pytest.raises(ValueError, match="told nothing that depends on the prompt"):
        Inputs((), {"hidden_states": x, "timestep": t}).told([None, other])


def test_prompts_of_videos_have_a_row_for_each_frame():
    from guiders.pipelines.patch.call_arguments import Inputs

    frames = 3
    own = Inputs((torch.zeros(2, 4), 1), {"encoder_hidden_states": torch.zeros(2 * frames, 5)})
    other = Inputs((torch.zeros(1, 4), 1), {"encoder_hidden_states": torch.ones(frames, 5)})
    told = own.told([other, None]).kwargs["encoder_hidden_states"]
    assert told.mean(dim=1).tolist() == [1.0] * 3 + [0.0] * 3
    noisy = own.embedded([1], lambda name, value: value + 2).kwargs["encoder_hidden_states"]
    assert noisy.mean(dim=1).tolist() == [0.0] * 3 + [2.0] * 3

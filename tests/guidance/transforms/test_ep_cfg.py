"""EP-CFG keeps the energy of the conditional image."""

import torch
from guiders import CFG, EnergyPreserving
from known import guide, pictures


def test_the_energy_is_that_of_the_conditional_image():
    c, u = pictures(3, 0), pictures(3, 1)
    out = guide(CFG(6) | EnergyPreserving(), c, u)[0]
    energy = [x.square().sum(dim=(1, 2, 3)) for x in (out, c)]
    torch.testing.assert_close(*energy)
    plain = guide(CFG(6), c, u)[0]
    cosine = torch.cosine_similarity(out.flatten(1), plain.flatten(1))
    torch.testing.assert_close(cosine, torch.ones(3))
    c, u = pictures(3, 0, 3, 64, 64), pictures(3, 1, 3, 64, 64)
    robust = guide(CFG(6) | EnergyPreserving(45, 55), c, u)[0]
    middle = [x.square().flatten(1).median(dim=1).values for x in (robust, c)]
    torch.testing.assert_close(*middle, rtol=0.01, atol=0)

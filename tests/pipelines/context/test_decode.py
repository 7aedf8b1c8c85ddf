"""Pictures of latents, whatever the autoencoder's precision and place."""

import pytest
import tiny
import torch
from accelerate import cpu_offload
from errors import error
from guiders.pipelines.context.decode import decode


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_pictures_of_an_autoencoder_that_is_offloaded(dtype):
    """Its layers are brought one by one; in half precision it is decoded in full nevertheless."""
    pipe, x0 = tiny.sd(), tiny.latents()
    pipe.vae.register_to_config(force_upcast=True)
    pipe.vae.to(dtype)
    wanted = decode(pipe, x0)
    cpu_offload(pipe.vae, execution_device=torch.device("cpu"))
    with torch.no_grad():
        torch.testing.assert_close(decode(pipe, x0), wanted, rtol=1e-5, atol=1e-5)
    assert pipe.vae.dtype == dtype
    x0.requires_grad_()
    decode(pipe, x0).sum().backward()
    assert x0.grad.abs().sum() > 0


def test_an_autoencoder_that_overflows_is_decoded_in_full_precision():
    pipe = tiny.sd("ddim")
    x0 = tiny.latents(2)
    exact = decode(pipe, x0)
    pipe.vae.to(torch.float16).register_to_config(force_upcast=True)
    x0.requires_grad_()
    pictures = decode(pipe, x0)
    assert pictures.dtype == torch.float32
    assert error(pictures.detach(), exact) < 1e-2
    pictures.sum().backward()
    assert x0.grad.isfinite().all()
    assert pipe.vae.dtype == torch.float16

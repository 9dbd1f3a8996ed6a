import torch
from torch import nn

from pipeline.models.autoencoders.latents import Inference
from pipeline.models.objectives.jacobians import jacobian_norm
from tests.models.autoencoders.test_conv_vae import flat


def full(function, inputs):
    """The squared norm for one input after another, from the whole Jacobian."""
    jacobians = [torch.autograd.functional.jacobian(function, one[None]) for one in inputs]
    return torch.stack([found.square().sum() for found in jacobians])


def test_the_estimate_is_the_full_jacobian_s_norm():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3))
    inputs = torch.randn(4, 5, requires_grad=True)
    found = jacobian_norm(net(inputs), [inputs], lambda *shape: torch.randn(4, *shape), probes=4000)
    torch.testing.assert_close(found, full(net, inputs.detach()), rtol=0.05, atol=0)


def test_one_output_needs_one_probe():
    """A single output's gradient is the whole Jacobian: nothing is random about it, and it can be differentiated."""
    torch.manual_seed(0)
    weight = torch.tensor([[2.0, -1.0, 3.0]], requires_grad=True)
    inputs = torch.ones(1, 3, requires_grad=True)
    found = jacobian_norm(inputs @ weight.T, [inputs], lambda *shape: torch.randn(1, *shape), probes=1)
    assert found.item() == 14
    assert torch.autograd.grad(found.sum(), weight)[0].tolist() == [[4.0, -2.0, 6.0]]


def test_an_autoencoder_s_contraction_is_the_full_jacobian_s_norm():
    torch.manual_seed(0)
    model = flat(code="deterministic")
    image = torch.rand(2, 3, 9, 11)

    def code(x):
        return model.infer(x, None).code

    def found(probes):
        x = image.clone().requires_grad_()
        inference: Inference = model.infer(x, None)
        return jacobian_norm(inference.code, [x], lambda *shape: torch.randn(2, *shape), probes)

    torch.testing.assert_close(found(400), full(code, image), rtol=0.1, atol=0)

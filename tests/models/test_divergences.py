import pytest
import torch

from pipeline.models.divergences import MMDConfig, RunningMMD, imq_frequencies, imq_kernel, mmd


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def test_the_kernel_by_hand():
    # d = 1, |x - y|^2 = 4: the mean over scales s of 2 s / (2 s + 4).
    wanted = sum(2 * s / (2 * s + 4) for s in (0.1, 0.2, 0.5, 1, 2, 5, 10)) / 7
    assert imq_kernel(torch.tensor([[1.0]]), torch.tensor([[-1.0]])).item() == pytest.approx(wanted)
    assert imq_kernel(torch.zeros(1, 3), torch.zeros(1, 3)).item() == 1


def test_the_discrepancy_is_the_slow_sum():
    x, y = torch.randn(5, 2), torch.randn(4, 2) + 1

    def mean(left, right, same):
        pairs = [(i, j) for i in range(len(left)) for j in range(len(right)) if not (same and i == j)]
        return sum(imq_kernel(left[i : i + 1], right[j : j + 1]).item() for i, j in pairs) / len(pairs)

    wanted = mean(x, x, True) + mean(y, y, True) - 2 * mean(x, y, False)
    assert mmd(x, y).item() == pytest.approx(wanted, rel=1e-4)


def test_random_frequencies_tend_to_the_kernel():
    x, y = torch.randn(6, 3), torch.randn(7, 3)
    frequencies = imq_frequencies(200_000, 3, torch.Generator().manual_seed(0))
    found = torch.cos((x[:, None] - y[None]) @ frequencies).mean(-1)
    torch.testing.assert_close(found, imq_kernel(x, y), atol=0.01, rtol=0)


def running(frequencies=4096, memory=0.0, shapes=((4, 1, 1),)):
    return RunningMMD(MMDConfig(frequencies=frequencies, memory=memory), shapes)


def test_the_running_discrepancy_is_the_direct_one():
    latents = torch.randn(2000, 4, 1, 1) * 0.5 + 0.7
    found = running()
    found.absorb(found.features([latents]).mean(0))
    direct = mmd(latents.flatten(1), torch.randn(2000, 4))
    assert found.discrepancy().item() == pytest.approx(direct.item(), rel=0.1)
    prior = running()
    prior.absorb(prior.features([torch.randn(20_000, 4, 1, 1)]).mean(0))
    assert prior.discrepancy().item() < 1e-3 < found.discrepancy().item()


def test_its_gradient_is_that_of_the_direct_discrepancy():
    latents = (torch.randn(400, 4, 1, 1) * 0.5 + 0.7).requires_grad_()
    found = running(frequencies=20_000)
    with torch.no_grad():
        found.absorb(found.features([latents]).mean(0))
    (mine,) = torch.autograd.grad(found(found.features([latents])).mean(), latents)
    # With pairs of an image with itself, whose kernel has no gradient, the direct formula is not changed but for n.
    (theirs,) = torch.autograd.grad(mmd(latents.flatten(1), torch.randn(3000, 4)), latents)
    cosine = torch.nn.functional.cosine_similarity(mine.flatten(), theirs.flatten(), dim=0)
    assert cosine.item() > 0.98
    assert mine.norm().item() == pytest.approx(theirs.norm().item(), rel=0.05)


def test_at_the_prior_there_is_nothing_to_gain():
    found = running(64)
    assert found(found.features([torch.randn(5, 4, 1, 1)])).abs().max() == 0, "the first step has no gradient"


def test_following_it_moves_latents_to_the_prior():
    latents = (torch.randn(256, 2, 1, 1) * 0.2 + 2).requires_grad_()
    found = RunningMMD(MMDConfig(memory=0.5), ((2, 1, 1),))
    optimizer = torch.optim.Adam([latents], 0.05)
    for step in range(300):
        features = found.features([latents])
        optimizer.zero_grad()
        found(features).sum().backward()
        optimizer.step()
        found.absorb(features.detach().mean(0))
        if step == 5:
            assert found.discrepancy().item() > 0.3
    assert found.discrepancy().item() < 2e-3
    assert latents.mean().abs().item() < 0.2

import pytest
import torch

from pipeline.models.objectives.divergences import MMDConfig, RandomFeatureMMD, imq_frequencies, imq_kernel, mmd


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


def features(frequencies, *latents):
    """The features of latents of one level or several, and what made them."""
    found = RandomFeatureMMD(MMDConfig(frequencies=frequencies), [tuple(latent.shape[1:]) for latent in latents])
    return found, found.features(latents)


def test_the_discrepancy_of_features_is_the_direct_one():
    latents = torch.randn(2000, 4, 1, 1) * 0.5 + 0.7
    found, phi = features(4096, latents)
    direct = mmd(latents.flatten(1), torch.randn(2000, 4)).item()
    assert found.discrepancy(phi.mean(0), 2000).item() == pytest.approx(direct, rel=0.1)
    both, phi = features(4096, latents, latents[:, :2])
    second = mmd(latents[:, :2].flatten(1), torch.randn(2000, 2)).item()
    assert both.discrepancy(phi.mean(0), 2000).item() == pytest.approx(direct + second, rel=0.1), "levels add up"


def test_it_is_unbiased_in_small_batches():
    found, phi = features(256, torch.randn(40_000, 3, 1, 1))
    small = torch.stack([found.discrepancy(part.mean(0), 8) for part in phi.split(8)])
    assert abs(small.mean().item()) < 4 * small.std().item() / len(small) ** 0.5
    assert small.min() < 0 < small.max()
    alone = found.discrepancy(phi[0], 1)
    torch.testing.assert_close(alone, (phi[0] - found.prior).square().sum())


def test_shares_of_a_batch_carry_the_whole_gradient():
    latents = (torch.randn(12, 4, 1, 1) * 0.5 + 0.7).requires_grad_()
    found, phi = features(64, latents)
    (whole,) = torch.autograd.grad(found.discrepancy(phi.mean(0), 12), latents, retain_graph=True)
    mean = phi.detach().mean(0).double()
    parts = [
        torch.autograd.grad(found.couple(phi[rows].sum(0) / 12, mean, 12), latents, retain_graph=True)[0]
        for rows in (slice(0, 5), slice(5, 12))
    ]
    torch.testing.assert_close(parts[0] + parts[1], whole)
    assert (parts[0][5:] == 0).all()


def test_its_gradient_is_that_of_the_direct_discrepancy():
    latents = (torch.randn(400, 4, 1, 1) * 0.5 + 0.7).requires_grad_()
    found, phi = features(20_000, latents)
    (mine,) = torch.autograd.grad(found.discrepancy(phi.mean(0), 400), latents)
    (theirs,) = torch.autograd.grad(mmd(latents.flatten(1), torch.randn(3000, 4)), latents)
    assert torch.nn.functional.cosine_similarity(mine.flatten(), theirs.flatten(), dim=0).item() > 0.98
    assert mine.norm().item() == pytest.approx(theirs.norm().item(), rel=0.1)


def test_following_it_moves_latents_to_the_prior():
    latents = (torch.randn(256, 2, 1, 1) * 0.2 + 2).requires_grad_()
    optimizer = torch.optim.Adam([latents], 0.05)
    for _ in range(300):
        found, phi = features(512, latents)
        optimizer.zero_grad()
        found.discrepancy(phi.mean(0), 256).backward()
        optimizer.step()
    assert latents.mean().abs().item() < 0.2
    assert latents.std().item() == pytest.approx(1.0, abs=0.3)
    assert found.discrepancy(phi.mean(0), 256).item() < 1e-3

import math

import pytest
import torch
from torch.distributions import MultivariateNormal, Normal

from pipeline.errors import RequestError
from pipeline.models.autoencoders.latents import Gaussian, Inference, Level, standard_normal
from pipeline.models.objectives.adversarial import AdversarialConfig
from pipeline.models.objectives.objective import (
    OBJECTIVES,
    KLConfig,
    Objective,
    ObjectiveConfig,
    elbo,
    kl_weight,
    with_free_nats,
)
from pipeline.models.objectives.sparsity import SparsityConfig
from tests.models.autoencoders.test_conv_vae import flat, ladder


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def inference(posterior, logits):
    posterior = Gaussian(*(part.flatten(1)[..., None, None] for part in posterior))
    return Inference((Level(posterior.mean, posterior.mean, posterior, standard_normal(posterior.mean)),), logits)


def test_sums_over_pixels_and_leaves_padding_out():
    image, logits = torch.rand(2, 3, 4, 6), torch.randn(2, 3, 4, 6)
    posterior = Gaussian(torch.randn(2, 5, 1, 1), torch.randn(2, 5, 1, 1))
    model = flat(scale=math.exp(-1.0))
    whole = elbo(model, image, inference(posterior, logits))
    by_hand = -Normal(logits.sigmoid(), math.exp(-1.0)).log_prob(image).sum((1, 2, 3))
    torch.testing.assert_close(whole.reconstruction, by_hand)
    torch.testing.assert_close(whole.total(), by_hand + whole.kl)
    valid = torch.zeros(2, 1, 4, 6)
    valid[..., :3] = 1
    left = elbo(model, image, inference(posterior, logits), valid)
    half = elbo(model, image[..., :3], inference(posterior, logits[..., :3]))
    torch.testing.assert_close(left.reconstruction, half.reconstruction)
    torch.testing.assert_close(left.kl, whole.kl)


def test_linear_gaussian_bound_is_tight_at_the_true_posterior():
    """x = W z + m + noise has a marginal and a posterior in closed form; with W^T W diagonal the posterior is, too."""
    sigma, count = 0.04, 200_000
    weights = 0.1 * torch.linalg.qr(torch.randn(6, 2))[0] @ torch.diag(torch.tensor([1.0, 0.5]))
    x = 0.5 + 0.1 * torch.randn(6)
    covariance = weights @ weights.T + sigma**2 * torch.eye(6)
    marginal = MultivariateNormal(torch.full((6,), 0.5), covariance).log_prob(x)
    variance = 1 / (1 + weights.square().sum(0) / sigma**2)
    mean = variance * (weights.T @ (x - 0.5)) / sigma**2
    model = flat(scale=sigma)

    def bound(posterior):
        # The decoder's sigmoid is undone, so that the mean is the linear one.
        decoded = 0.5 + posterior.sample(torch.randn(count, 2)) @ weights.T
        found = inference(posterior, decoded.logit().view(count, 1, 1, 6))
        return elbo(model, x.view(1, 1, 1, 6).expand(count, 1, 1, 6), found).total().mean().item()

    true = Gaussian(mean.expand(count, 2), variance.log().expand(count, 2))
    tight = bound(true)
    assert tight == pytest.approx(-marginal.item(), abs=0.01)
    assert bound(true._replace(log_variance=true.log_variance + 1.0)) > tight + 0.1


@pytest.mark.parametrize(
    ("settings", "by_step"),
    [
        ({}, {0: 2.0, 999: 2.0}),
        ({"warmup": "linear", "warmup_steps": 10}, {0: 0.0, 5: 1.0, 10: 2.0, 11: 2.0, 10**6: 2.0}),
        # Two cycles of 10 rising and 10 flat steps, then flat for ever.
        (
            {"warmup": "cyclical", "warmup_steps": 10, "cycles": 2},
            {0: 0.0, 5: 1.0, 10: 2.0, 19: 2.0, 20: 0.0, 25: 1.0, 39: 2.0, 40: 2.0, 45: 2.0},
        ),
    ],
)
def test_kl_schedules_by_hand(settings, by_step):
    config = KLConfig(beta=2.0, **settings)
    assert {step: kl_weight(config, step) for step in by_step} == pytest.approx(by_step)


def test_free_nats_by_hand():
    of_channels = [torch.tensor([[0.2, 3.0], [0.7, 0.1]], requires_grad=True)]
    found = with_free_nats(of_channels, 0.5)[0]
    assert found.tolist() == [[0.5, 3.0], [pytest.approx(0.7), 0.5]]
    found.sum().backward()
    assert of_channels[0].grad.tolist() == [[0.0, 1.0], [1.0, 0.0]], "nothing is gained below"


def costs(config, model, step=0, count=2):
    image = torch.rand(count, 3, 16, 24)
    return Objective(config, model, 16, 24)(model, image, lambda *shape: torch.randn(count, *shape), step)


def test_the_default_is_the_bound():
    found = costs(OBJECTIVES["elbo"], flat())
    torch.testing.assert_close(found.total, found.logs["reconstruction"] + found.logs["kl"])
    assert set(found.logs) == {"reconstruction", "kl"}
    assert found.sums == {}


def test_terms_add_up():
    config = ObjectiveConfig(
        terms=("kl", "code_norm", "sparsity"),
        reconstruction=0.5,
        kl=KLConfig(beta=3.0),
        code_norm=0.1,
        sparsity=SparsityConfig(cost="l1", weight=0.2),
    )
    found = costs(config, flat())
    logs = found.logs
    wanted = 0.5 * logs["reconstruction"] + 3 * logs["kl"] + logs["code_norm"] + logs["sparsity"]
    torch.testing.assert_close(found.total, wanted)
    assert 0 < logs["active_fraction"].min() <= logs["active_fraction"].max() <= 1


def test_the_code_norm_by_hand():
    model = flat(code="deterministic")
    image = torch.rand(2, 3, 16, 24)
    objective = Objective(ObjectiveConfig(terms=("code_norm",), code_norm=0.1), model, 16, 24)
    found = objective(model, image, lambda *shape: torch.randn(2, *shape), 0).logs["code_norm"]
    torch.testing.assert_close(found, 0.05 * model.infer(image, None).code.square().sum(1))


def test_gates_with_a_heavy_price_close():
    model = flat(code="hard_concrete")
    config = ObjectiveConfig(terms=("sparsity",), sparsity=SparsityConfig(weight=1e4))
    image, objective = torch.rand(4, 3, 16, 24), Objective(config, model, 16, 24)
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    active = []
    for step in range(40):
        found = objective(model, image, lambda *shape: torch.randn(4, *shape), step)
        active.append(found.logs["active_fraction"].mean().item())
        optimizer.zero_grad()
        found.total.sum().backward()
        optimizer.step()
    assert active[0] > 0.5
    assert active[-1] < 0.05


def test_a_discriminator_starts_late():
    config = ObjectiveConfig(terms=("kl", "adversarial"), adversarial=AdversarialConfig(start_step=5, widths=(8,)))
    early, late = costs(config, flat(), step=4), costs(config, flat(), step=5)
    plain = early.logs["reconstruction"] + early.logs["kl"]
    torch.testing.assert_close(early.total, plain)
    assert (late.total > late.logs["reconstruction"] + late.logs["kl"] + 0.1).all()
    assert early.sums["costs"].shape == (2, 2)


@pytest.mark.parametrize(
    ("name", "model", "message"),
    [
        (
            "elbo",
            lambda: flat(code="top_k"),
            "'kl', which needs a code of 'gaussian', but ConvVAEConfig.code is 'top_k'",
        ),
        ("sparse", flat, "'sparsity', which needs a code of 'hard_concrete', but ConvVAEConfig.code is 'gaussian'"),
        ("sparse_kl", ladder, "'sparsity', which needs a code of 'hard_concrete', but LadderVAEConfig.code is"),
        ("vae_gan", lambda: ladder(channels=1), "AdversarialConfig.channels must be the model's 1, got 3"),
    ],
)
def test_what_does_not_fit_is_refused(name, model, message):
    with pytest.raises(RequestError, match=message):
        Objective(OBJECTIVES[name], model(), 16, 24)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ObjectiveConfig(terms=("kl", "kl")), r"ObjectiveConfig.terms must have no term twice"),
        (lambda: ObjectiveConfig(reconstruction=-1.0), "ObjectiveConfig.reconstruction must not be negative, got -1.0"),
        (lambda: KLConfig(warmup_steps=0), "KLConfig.warmup_steps must be at least 1, got 0"),
    ],
)
def test_settings_are_checked(make, message):
    with pytest.raises(RequestError, match=message):
        make()


def test_the_weight_of_the_top_level_alone_may_rise():
    model, image = ladder(), torch.rand(3, 3, 16, 16)
    noise = [torch.randn(3, *shape) for shape in model.latent_shapes(16, 16)]

    def kl_cost(levels, step):
        given = iter(noise)
        kl = KLConfig(beta=2.0, warmup="linear", warmup_steps=10, warmup_levels=levels)
        objective = Objective(ObjectiveConfig(kl=kl, reconstruction=0.0), model, 16, 16)
        return objective(model, image, lambda *shape: next(given), step).total

    top, below = (found.sum(1) for found in model.infer(image, noise).kl_of_channels())
    torch.testing.assert_close(kl_cost("top", 0), 2 * below)
    torch.testing.assert_close(kl_cost("top", 5), top + 2 * below)
    torch.testing.assert_close(kl_cost("all", 5), top + below)
    for levels in ("all", "top"):
        torch.testing.assert_close(kl_cost(levels, 10), 2 * (top + below))

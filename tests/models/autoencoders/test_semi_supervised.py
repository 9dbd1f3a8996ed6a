from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal, Normal, kl_divergence
from torch.nn import functional as F

from pipeline.errors import RequestError
from pipeline.models.autoencoders.semi_supervised import (
    SemiSupervisedConfig,
    SemiSupervisedCosts,
    SemiSupervisedVAE,
    semi_supervised_objective,
)

CONFIG = SemiSupervisedConfig(inputs=5, classes=3, latents=2, hidden=(7, 6), classifier_hidden=(8,))


@pytest.fixture(name="model")
def _model() -> SemiSupervisedVAE:
    torch.manual_seed(0)
    return SemiSupervisedVAE(CONFIG)


def slow_bound(model: SemiSupervisedVAE, views: Tensor, label: int, noise: Tensor) -> Tensor:
    """Equation 6 for one example, by torch's distributions, view by view."""
    label_tensor, total = torch.tensor([[label]]), torch.tensor(math.log(CONFIG.classes))
    for view, drawn in zip(views, noise, strict=True):
        mean, log_variance = (part[0, 0, 0] for part in model.posterior(view.view(1, 1, -1), label_tensor))
        q = Normal(mean, (0.5 * log_variance).exp())
        z = mean + q.scale * drawn
        mean, log_variance = (part[0, 0, 0] for part in model.likelihood(z.view(1, 1, 1, -1), label_tensor))
        p = Normal(mean, (0.5 * log_variance).exp())
        total = total - p.log_prob(view).sum() + kl_divergence(q, Normal(0.0, 1.0)).sum()
    return total


@pytest.mark.parametrize("views", [1, 2])
def test_the_labelled_bound_is_that_of_each_example(model: SemiSupervisedVAE, views: int) -> None:
    x, label, noise = torch.randn(4, views, 5), torch.tensor([0, 2, 1, 2]), torch.randn(4, views, 2)
    found = model.labelled_bound(x, label, noise)
    for index in range(4):
        torch.testing.assert_close(found[index], slow_bound(model, x[index], int(label[index]), noise[index]))


@pytest.mark.parametrize("views", [1, 2])
def test_the_unlabelled_bound_is_the_sum_over_classes(model: SemiSupervisedVAE, views: int) -> None:
    x, noise = torch.randn(4, views, 5), torch.randn(4, 3, views, 2)
    found = model.unlabelled_bound(x, noise)
    for index in range(4):
        q = torch.stack([model.classifier(view) for view in x[index]]).mean(0).softmax(0)
        expected = torch.tensor(0.0)
        for label in range(3):
            expected = expected + q[label] * slow_bound(model, x[index], label, noise[index, label])
            expected = expected + q[label] * q[label].log()  # minus the entropy
        torch.testing.assert_close(found[index], expected)


def linear_gaussian(model: SemiSupervisedVAE, x: Tensor, label: int) -> Tensor:
    """Make the model linear with its exact posterior of z; log p(x, label) in closed form."""
    torch.manual_seed(1)
    loading, means, noise = torch.randn(5, 2), torch.randn(3, 5), 0.7

    class Decoder(nn.Module):
        def forward(self, z: Tensor, label: Tensor) -> Tensor:
            mean = z @ loading.T + means[label].unsqueeze(2)
            return torch.cat((mean, torch.full_like(mean, 2 * math.log(noise))), dim=-1)

    class Encoder(nn.Module):
        def forward(self, x: Tensor, label: Tensor) -> Tensor:
            mean = (x - means[label].unsqueeze(2)) @ (loading / noise**2) / precision
            return torch.cat((mean, (-precision.log()).expand_as(mean)), dim=-1)

    # The posterior is diagonal where the columns of the loading are orthogonal.
    loading = torch.linalg.qr(loading)[0] * torch.tensor([1.5, 0.5])
    precision = 1 + loading.square().sum(0) / noise**2
    model.decoder, model.encoder = Decoder(), Encoder()
    covariance = loading @ loading.T + noise**2 * torch.eye(5)
    return MultivariateNormal(means[label], covariance).log_prob(x) - math.log(3)


def test_the_bound_is_tight_in_a_linear_gaussian_model(model: SemiSupervisedVAE) -> None:
    """With the exact posteriors, the mean bound over z is -log p(x, y), and summed over y -log p(x)."""
    x = torch.randn(5)
    joint = torch.stack([linear_gaussian(model, x, label) for label in range(3)])
    many = x.expand(20_000, 1, 5)
    for label in range(3):
        found = model.labelled_bound(many, torch.full((20_000,), label), torch.randn(20_000, 1, 2))
        assert found.mean().item() == pytest.approx(-joint[label].item(), abs=0.03)

    model.classifier = nn.Linear(5, 3)
    nn.init.zeros_(model.classifier.weight)
    model.classifier.bias.data = joint
    found = model.unlabelled_bound(many, torch.randn(20_000, 3, 1, 2))
    assert found.mean().item() == pytest.approx(-joint.logsumexp(0).item(), abs=0.03)
    model.classifier.bias.data = torch.zeros(3)
    assert model.unlabelled_bound(many, torch.randn(20_000, 3, 1, 2)).mean() > -joint.logsumexp(0) + 0.05


def test_the_objective_weighs_the_parts_by_how_many_examples_there_are(model: SemiSupervisedVAE) -> None:
    costs = SemiSupervisedCosts(torch.tensor(10.0), torch.tensor(20.0), torch.tensor(3.0))
    assert semi_supervised_objective(costs, 100, 300, alpha=0.1).item() == pytest.approx(17.5 + 0.3)
    x, label, others = torch.randn(4, 1, 5), torch.tensor([0, 2, 1, 2]), torch.randn(6, 1, 5)
    torch.manual_seed(3)
    found = model.costs(x, label, others)
    torch.manual_seed(3)
    torch.testing.assert_close(found.labelled, model.labelled_bound(x, label, torch.randn(4, 1, 2)).mean())
    torch.testing.assert_close(found.unlabelled, model.unlabelled_bound(others, torch.randn(6, 3, 1, 2)).mean())
    torch.testing.assert_close(found.classifier, F.cross_entropy(model.classifier(x[:, 0]), label))
    empty = model.costs(x, label, others[:0])
    assert empty.unlabelled == 0
    assert empty.labelled > 0
    assert model.costs(x[:0], label[:0], others).classifier == 0


def test_one_label_of_each_cluster_is_enough(model: SemiSupervisedVAE) -> None:
    """Three far clusters, one labelled example each: the rest is told from the unlabelled bound."""
    torch.manual_seed(0)
    truth = torch.arange(120) % 3
    x = (4 * torch.eye(3, 5)[truth]).unsqueeze(1) + 0.7 * torch.randn(120, 2, 5)
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    for _ in range(300):
        cost = semi_supervised_objective(model.costs(x[:3], truth[:3], x[3:]), 3, 117, alpha=1.0)
        optimizer.zero_grad()
        cost.backward()
        optimizer.step()
    assert (model.class_logits(x).argmax(1) == truth).float().mean() > 0.97


@pytest.mark.parametrize(
    ("setting", "rule"),
    [
        ({"inputs": 0}, r"inputs must be at least 1, got 0"),
        ({"classes": 1}, r"classes must be at least 2, got 1"),
        ({"hidden": ()}, r"hidden must be at least one positive number, got \(\)"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1.0"),
    ],
)
def test_settings_are_checked(setting: dict, rule: str) -> None:
    with pytest.raises(RequestError, match=f"SemiSupervisedConfig.{rule}"):
        SemiSupervisedConfig(**{"inputs": 5, **setting})

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from benchmarks.measures.sharpness import high_frequency_power, laplacian_variance
from pipeline.errors import RequestError


def noise(count=40, height=24, width=24):
    return torch.rand(count, 2, height, width, generator=torch.Generator().manual_seed(0))


def wave(cycles_per_pixel, *, across=True, size=32):
    line = 0.5 + 0.5 * torch.sin(2 * math.pi * cycles_per_pixel * torch.arange(size))
    image = line.expand(size, size)
    return (image if across else image.T)[None, None].clamp(0, 1)


def blurred(images):
    return F.avg_pool2d(images, 3, 1, 1)


@pytest.mark.parametrize("figure", [high_frequency_power, laplacian_variance])
def test_blur_is_told_and_contrast_counts_squared(figure):
    sharp = figure(noise())
    assert sharp.shape == (40,)
    assert sharp.dtype == np.float64
    once, twice = figure(blurred(noise())), figure(blurred(blurred(noise())))
    assert (once < 0.35 * sharp).all()
    assert (twice < 0.8 * once).all()
    np.testing.assert_allclose(figure(noise() * 0.5), 0.25 * sharp, rtol=1e-4)
    np.testing.assert_allclose(figure(noise() * 0.5 + 0.5), 0.25 * sharp, rtol=1e-4)


@pytest.mark.parametrize("across", [True, False])
def test_only_what_is_above_the_cutoff_counts(across):
    low, high = (high_frequency_power(wave(f, across=across))[0] for f in (0.1, 0.4))
    assert low < 1e-4 * high
    assert high_frequency_power(wave(0.1, across=across), cutoff=0.05)[0] > 0.1 * high


def test_the_power_is_the_slow_sum():
    height, width, cutoff = 10, 14, 0.2
    image = noise(1, height, width)[:, :1]
    window = np.outer(np.hanning(height), np.hanning(width))
    pixels = image[0, 0].double().numpy()
    spectrum = np.abs(np.fft.fft2((pixels - pixels.mean()) * window)) ** 2
    rings = {}
    for y, row in enumerate(spectrum):
        for x, power in enumerate(row):
            radius = math.hypot(np.fft.fftfreq(height)[y], np.fft.fftfreq(width)[x])
            if cutoff <= radius <= 0.5:
                rings.setdefault(round(radius * height), []).append(power)
    assert len(rings) > 2
    wanted = np.mean([np.mean(powers) for powers in rings.values()])
    assert high_frequency_power(image, cutoff)[0] == pytest.approx(wanted, rel=1e-4)


def test_a_ramp_has_power_at_its_borders_only():
    """Its opposite borders do not match, which without a window would pass for a sharp edge."""
    ramp = torch.linspace(0, 1, 32).expand(1, 1, 32, 32)
    assert high_frequency_power(ramp)[0] < 1e-3 * high_frequency_power(noise(height=32, width=32)).mean()
    assert laplacian_variance(ramp)[0] < 1e-9


def test_a_laplacian_by_hand():
    image = torch.zeros(1, 1, 3, 5)
    image[0, 0, 1, 2] = 1
    # The inner row of the Laplacian is 1, -4, 1.
    assert laplacian_variance(image)[0] == pytest.approx(np.var([1, -4, 1]))


def test_what_cannot_be_measured_is_named():
    with pytest.raises(RequestError, match=r"cutoff must be in \(0, 0.5\), got 0.5"):
        high_frequency_power(noise(), 0.5)
    with pytest.raises(RequestError, match=r"no frequency from 0.48 to 0.5"):
        high_frequency_power(noise(1, 3, 3), 0.48)
    with pytest.raises(RequestError, match="at least 3 x 3"):
        laplacian_variance(noise(1, 2, 9))

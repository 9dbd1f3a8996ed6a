import pytest
import torch

from benchmarks.measures import neighbours
from benchmarks.measures.neighbours import close_others, nearest, nearest_others, squared_distances


@pytest.fixture(params=[None, 40], ids=["whole", "in pieces"], autouse=True)
def _pieces(request, monkeypatch):
    if request.param:
        monkeypatch.setattr(neighbours, "_VALUES", request.param)


def rows(count: int, seed: int, shift: float = 0.0) -> torch.Tensor:
    return torch.randn(count, 5, generator=torch.Generator().manual_seed(seed)) + shift


def test_distances_are_the_direct_ones():
    query, reference = rows(23, 0).double(), rows(17, 1).double()
    found = torch.cat([part for _, part in squared_distances(query, reference)])
    torch.testing.assert_close(found, (query[:, None] - reference[None]).square().sum(2))


@pytest.mark.parametrize("count", [1, 4])
def test_nearest_is_the_slow_one(count):
    query, reference = rows(23, 0, 30.0), rows(17, 1, 30.0)  # float32, far from the origin
    slow = (query.double()[:, None] - reference.double()[None]).norm(dim=2).sort(1).values[:, :count]
    torch.testing.assert_close(nearest(query, reference, count), slow)


def test_copies_are_at_zero_exactly_and_no_row_is_its_own_neighbour():
    found = rows(20, 2, 100.0)
    found[13] = found[4]
    distances = nearest_others(found)[:, 0]
    assert (distances == 0).nonzero().flatten().tolist() == [4, 13]
    assert (nearest(found, found)[:, 0] == 0).all()
    slow = (found.double()[:, None] - found.double()[None]).norm(dim=2) + torch.eye(20) * 1e9
    torch.testing.assert_close(distances, slow.min(1).values)


def test_close_others_are_counted():
    line = torch.tensor([[0.0], [1.0], [1.5], [4.0], [4.0]], dtype=torch.float64)
    assert close_others(line, 1.2).tolist() == [1, 2, 1, 1, 1]
    assert close_others(line, 0.4).tolist() == [0, 0, 0, 1, 1]

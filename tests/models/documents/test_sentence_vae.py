"""The autoencoder of sentences: padding, groups, the reset of its decoder, and what it writes."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from pipeline.errors import RequestError
from pipeline.models.documents.sentence_vae import SentenceVAE, SentenceVAEConfig, alike_in_length
from pipeline.models.documents.writing import WritingConfig, write
from pipeline.noise import Noise

CONFIG = SentenceVAEConfig(vocabulary=12, embedding=6, encoder_hidden=5, decoder_hidden=7, latents=3)
BEGIN, END = 1, 2
IDS = torch.tensor([[5, 6, 2, 0, 0], [7, 8, 9, 4, 2], [3, 2, 0, 0, 0]])
LENGTHS = torch.tensor([3, 5, 2])


def network(seed: int = 0) -> SentenceVAE:
    torch.manual_seed(seed)
    return SentenceVAE(CONFIG).eval()


def test_padding_and_neighbours_change_nothing() -> None:
    model = network()
    latents = torch.randn(3, 3)
    mean, log_variance = model.encode(IDS, LENGTHS)
    likely = model.log_likelihood(latents, IDS, LENGTHS, BEGIN)
    for row, length in enumerate(LENGTHS.tolist()):
        alone, one = IDS[row : row + 1, :length], LENGTHS[row : row + 1]
        torch.testing.assert_close(model.encode(alone, one).mean, mean[row : row + 1])
        torch.testing.assert_close(model.encode(alone, one).log_variance, log_variance[row : row + 1])
        torch.testing.assert_close(model.log_likelihood(latents[[row]], alone, one, BEGIN), likely[row : row + 1])


def test_all_sentences_together_have_the_probability_one() -> None:
    model = network()
    z = torch.randn(1, 3)
    every = torch.tensor(list(itertools.product(range(12), repeat=2)))
    likely = model.log_likelihood(z.expand(len(every), -1), every, torch.full((len(every),), 2), BEGIN)
    assert likely.exp().sum().item() == pytest.approx(1, rel=1e-4)


def test_hidden_subwords_are_not_seen() -> None:
    model, z = network(), torch.randn(3, 3)
    hidden = torch.ones_like(IDS, dtype=torch.bool)
    other = torch.where(IDS > 2, 13 - IDS, IDS)
    one, same = (model.logits(z, torch.where(hidden, 0, ids))[0] for ids in (IDS, other))
    assert torch.equal(one, same)
    seen = model.log_likelihood(z, IDS, LENGTHS, BEGIN)
    assert not torch.allclose(seen, model.log_likelihood(z, IDS, LENGTHS, BEGIN, hidden))


def test_a_state_goes_on_where_the_last_call_ended() -> None:
    model, z = network(), torch.randn(3, 3)
    whole, _ = model.logits(z, IDS)
    first, state = model.logits(z, IDS[:, :2])
    rest, _ = model.logits(z, IDS[:, 2:], state)
    torch.testing.assert_close(torch.cat([first, rest], dim=1), whole)


def test_the_decoder_is_reset_and_nothing_else() -> None:
    model = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    names = model.reset_decoder(5)
    changed = [name for name, value in model.state_dict().items() if not torch.equal(value, before[name])]
    assert set(changed) == set(names)
    assert {name.partition(".")[0] for name in names} == {"decoder_state", "decoder", "output"}
    assert model.get_parameter("decoder.weight_hh_l0").abs().max() <= 1 / math.sqrt(7)
    again = network(1)
    again.reset_decoder(5)
    assert torch.equal(again.output.weight, model.output.weight)


def test_it_begins_with_the_frequencies_of_subwords() -> None:
    model = network()
    model.set_frequencies(torch.tensor([0] * 10 + [3, 5]))
    assert model.bias.exp().tolist() == pytest.approx([1 / 20] * 10 + [4 / 20, 6 / 20])


def test_groups_hold_every_sentence_once() -> None:
    lengths = torch.tensor([4, 0, 2, 9, 2, 7, 0])
    groups = [group.tolist() for group in alike_in_length(lengths, 2)]
    assert groups == [[2, 4], [0, 5], [3]]
    assert list(alike_in_length(torch.zeros(2, dtype=torch.long), 2)) == []


class Chain(SentenceVAE):
    """A network whose next subword depends on the last one alone, by a table of logits."""

    def __init__(self, table: Tensor) -> None:
        super().__init__(CONFIG)
        self.chain = table

    def logits(self, latents: Tensor, before: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self.chain[before], torch.zeros(1, len(before), 1)


def chain() -> Chain:
    """From the beginning to 5 (0.6) or 6 (0.4); from 5 evenly to 7, 8, 9 and 10; from 6 and these to the end."""
    table = torch.full((12, 12), -1e4)
    table[BEGIN, 5], table[BEGIN, 6] = math.log(0.6), math.log(0.4)
    table[5, 7:11] = math.log(0.25)
    table[6, END] = 0
    table[7:11, END] = 0
    return Chain(table)


def test_beam_search_finds_the_likelier_sentence() -> None:
    def draw(_: int) -> Tensor:
        raise AssertionError("a beam search draws nothing")

    # Greedy search would take 5. The mean log probability of (6, end) is -0.46, that of (5, 7, end) is -0.63.
    assert write(chain(), torch.zeros(1, 3), WritingConfig(), (BEGIN, END), draw) == [[6]]
    narrow = WritingConfig(beam_width=1)
    ((first, second),) = write(chain(), torch.zeros(1, 3), narrow, (BEGIN, END), draw)
    assert (first, second in range(7, 11)) == (5, True)
    short = WritingConfig(max_subwords=1)
    assert write(chain(), torch.zeros(1, 3), short, (BEGIN, END), draw) == [[5]]


def test_nucleus_draws_from_the_likeliest_subwords() -> None:
    model, count = chain(), 400
    for top_p, sixes in ((0.5, 0.0), (1.0, 0.4)):
        config = WritingConfig(decoding="nucleus", top_p=top_p, max_subwords=4)
        noise = Noise(0, 0, range(count))
        found = write(model, torch.zeros(count, 3), config, (BEGIN, END), noise.uniform)
        assert sum(ids == [6] for ids in found) / count == pytest.approx(sixes, abs=0.06)
        assert {len(ids) for ids in found} <= {1, 2}
    alone = write(model, torch.zeros(1, 3), config, (BEGIN, END), Noise(0, 0, [7]).uniform)
    assert alone == found[7:8]


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"beam_width": 0}, "WritingConfig.beam_width must be at least 1"), ({"top_p": 0.0}, "top_p must be in")],
)
def test_writing_is_refused_without_room(settings: dict[str, float], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        WritingConfig(**settings)  # pyright: ignore[reportArgumentType]

import pytest
import torch
from torch.nn import functional

from collegium.train.loop.metrics import IGNORED, Tally, loss_of


def tally():
    return Tally(torch.device("cpu"))


def test_sums_over_batches_are_those_of_the_whole():
    generator = torch.Generator().manual_seed(0)
    scores, labels = torch.randn(50, 12, generator=generator), torch.randint(12, (50,), generator=generator)
    counted = tally()
    for x, y in zip(scores.split(7), labels.split(7), strict=True):
        counted.add(x, y)
    found = counted.figures()
    assert found.samples == 50
    assert found.loss == pytest.approx(functional.cross_entropy(scores, labels).item(), rel=1e-6)
    assert found.top1 == (scores.argmax(1) == labels).double().mean()
    ranks = (scores > scores.gather(1, labels[:, None])).sum(1)
    assert found.top5 == pytest.approx((ranks < 5).double().mean().item())


def test_a_tally_goes_on_from_its_state():
    scores, labels = torch.randn(20, 3), torch.randint(3, (20,))
    whole, first, second = tally(), tally(), tally()
    whole.add(scores, labels)
    first.add(scores[:9], labels[:9])
    second.restore(first.state())
    second.add(scores[9:], labels[9:])
    assert second.figures().samples == 20
    assert second.figures().loss == pytest.approx(whole.figures().loss)


def test_a_loss_that_is_given_is_what_is_reported():
    counted = tally()
    counted.add(torch.randn(6, 4), torch.randint(4, (6,)), torch.tensor(2.0))
    counted.add(torch.randn(2, 4), torch.randint(4, (2,)), torch.tensor(4.0))
    assert counted.figures().loss == pytest.approx(2.5)


def test_a_sequence_is_right_where_all_its_tokens_are():
    labels = torch.tensor([[3, 1], [2, 1], [4, IGNORED]])
    scores = torch.zeros(3, 2, 6)
    scores[0, 0, 3] = scores[0, 1, 1] = scores[1, 0, 2] = scores[1, 1, 0] = scores[2, 0, 4] = 9.0
    counted = tally()
    counted.add(scores, labels)
    found = counted.figures()
    assert found.top1 == pytest.approx(2 / 3)
    assert found.loss == pytest.approx(loss_of(scores, labels).item(), rel=1e-6)


def test_few_classes_have_no_five_best():
    counted = tally()
    counted.add(torch.tensor([[1.0, 0.0]]), torch.tensor([1]))
    assert (counted.figures().top1, counted.figures().top5) == (0.0, 1.0)

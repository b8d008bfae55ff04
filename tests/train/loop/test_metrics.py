import pytest
import torch
from torch.nn import functional

from collegium.train.loop.metrics import IGNORED, MetricSum, loss_of


def total():
    return MetricSum(torch.device("cpu"))


def test_sums_over_batches_are_those_of_the_whole():
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(50, 12, generator=generator), torch.randint(12, (50,), generator=generator)
    counted = total()
    for x, y in zip(logits.split(7), labels.split(7), strict=True):
        counted.add(x, y)
    found = counted.mean()
    assert found.samples == 50
    assert found.loss == pytest.approx(functional.cross_entropy(logits, labels).item(), rel=1e-6)
    assert found.top1 == (logits.argmax(1) == labels).double().mean()
    ranks = (logits > logits.gather(1, labels[:, None])).sum(1)
    assert found.top5 == pytest.approx((ranks < 5).double().mean().item())


@pytest.mark.parametrize("shape", [(60,), (12, 5)], ids=["classes", "sequences"])
@pytest.mark.parametrize("levels", [1, 2, 4])
def test_of_equal_logits_the_first_is_the_largest(shape, levels):
    """As for ``argmax``, by which an exported folder measures its accuracy; dead units leave such logits."""
    generator = torch.Generator().manual_seed(levels)
    logits = torch.randint(levels, (*shape, 9), generator=generator).float()
    labels = torch.randint(9, shape, generator=generator)
    counted = total()
    counted.add(logits, labels)
    right = (logits.argmax(-1) == labels).reshape(len(labels), -1).all(1)
    assert counted.mean().top1 == pytest.approx(right.double().mean().item())
    assert counted.mean().top5 >= counted.mean().top1


def test_a_tally_goes_on_from_its_state():
    logits, labels = torch.randn(20, 3), torch.randint(3, (20,))
    whole, first, second = total(), total(), total()
    whole.add(logits, labels)
    first.add(logits[:9], labels[:9])
    second.restore(first.state())
    second.add(logits[9:], labels[9:])
    assert second.mean().samples == 20
    assert second.mean().loss == pytest.approx(whole.mean().loss)


def test_a_loss_that_is_given_is_what_is_reported():
    counted = total()
    counted.add(torch.randn(6, 4), torch.randint(4, (6,)), torch.tensor(2.0))
    counted.add(torch.randn(2, 4), torch.randint(4, (2,)), torch.tensor(4.0))
    assert counted.mean().loss == pytest.approx(2.5)


def test_a_sequence_is_right_where_all_its_tokens_are():
    labels = torch.tensor([[3, 1], [2, 1], [4, IGNORED]])
    logits = torch.zeros(3, 2, 6)
    logits[0, 0, 3] = logits[0, 1, 1] = logits[1, 0, 2] = logits[1, 1, 0] = logits[2, 0, 4] = 9.0
    counted = total()
    counted.add(logits, labels)
    found = counted.mean()
    assert found.top1 == pytest.approx(2 / 3)
    assert found.loss == pytest.approx(loss_of(logits, labels).item(), rel=1e-6)


def test_few_classes_have_no_five_best():
    counted = total()
    counted.add(torch.tensor([[1.0, 0.0]]), torch.tensor([1]))
    assert (counted.mean().top1, counted.mean().top5) == (0.0, 1.0)

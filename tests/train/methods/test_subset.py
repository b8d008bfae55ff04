"""Appendix F: the greedy choice maximizes F.9, training moves chosen neurons alone, and the best are what is left."""

from itertools import combinations

import numpy as np
import pytest
import torch
from torch import nn

from collegium.search.errors import InvalidSpec
from collegium.train.errors import Mismatch
from collegium.train.methods import create
from collegium.train.methods.parametrizations.subset import (
    Rows,
    keep_places,
    objective,
    select_rows,
    utility_and_similarity,
)
from collegium.train.models.ensembles import MlpEnsemble


def rows(candidates, features=4, seed=0):
    return torch.randn(candidates, features, generator=torch.Generator().manual_seed(seed))


def test_each_choice_is_the_largest_gain_in_the_objective():
    block = rows(12)
    utility, similarity = utility_and_similarity(block, neighbours=3)
    chosen = select_rows(block, 6, neighbours=3, beta=0.7)
    for position in range(6):
        before = list(chosen[:position])
        gains = {i: objective([*before, i], utility, similarity, 1.0, 0.7) for i in range(12) if i not in before}
        assert gains[chosen[position]] == pytest.approx(max(gains.values()))


@pytest.mark.parametrize("seed", range(8))
def test_greedy_is_within_its_guarantee_of_the_maximum(seed):
    """f(S) ≥ (1 − 1/e) max f, f(∅) = 0, against all subsets; the minimum, as F.8 prints it, is elsewhere."""
    block = rows(10, seed=seed)
    utility, similarity = utility_and_similarity(block, neighbours=4)
    values = [objective(list(subset), utility, similarity) for subset in combinations(range(10), 4)]
    greedy = objective(list(select_rows(block, 4, neighbours=4)), utility, similarity)
    assert (1 - 1 / np.e) * max(values) <= greedy <= max(values) + 1e-9
    assert greedy > np.mean(values)


def test_the_objective_is_monotone_and_submodular():
    block = rows(7, seed=3)
    utility, similarity = utility_and_similarity(block, neighbours=10)

    def f(subset):
        return objective(list(subset), utility, similarity)

    for size in range(6):
        for subset in combinations(range(7), size):
            for i in set(range(7)) - set(subset):
                gain = f((*subset, i)) - f(subset)
                assert gain >= -1e-9
                for j in set(range(7)) - {*subset, i}:
                    assert f((*subset, j, i)) - f((*subset, j)) <= gain + 1e-9


def test_the_graph_joins_nearest_neighbours_by_cosine():
    block = torch.tensor([[1.0, 0.0], [2.0, 0.1], [0.0, 1.0], [0.1, 3.0], [-1.0, 0.0]])
    utility, similarity = utility_and_similarity(block, neighbours=1)
    similarity = similarity.toarray()
    cosines = torch.nn.functional.cosine_similarity(block[:, None], block[None], dim=-1).double().numpy()
    assert similarity[0, 1] == pytest.approx(cosines[0, 1])
    assert similarity[2, 3] == pytest.approx(cosines[2, 3])
    assert similarity[0, 2] == similarity[1, 2] == similarity[4].max() == 0  # not nearest, or opposed
    assert np.array_equal(similarity, similarity.T)
    constant = similarity.sum(1).max()
    np.testing.assert_allclose(utility, block.norm(dim=1).numpy() + constant, rtol=1e-6)


def test_long_rows_are_preferred_and_duplicates_are_not():
    block = torch.eye(4)
    block[0] *= 3
    assert set(select_rows(block, 1)) == {0}
    twins = torch.cat([torch.eye(3), torch.eye(3) * 0.99])
    assert set(select_rows(twins, 3)) == {0, 1, 2}


def test_rows_that_stay_keep_their_places():
    assert keep_places(torch.tensor([0, 1, 2, 3]), torch.tensor([3, 7, 0, 5])).tolist() == [0, 5, 7, 3]
    assert keep_places(torch.tensor([4, 1]), torch.tensor([1, 4])).tolist() == [4, 1]


def layers(model):
    return [module for module in model.modules() if isinstance(module, nn.utils.parametrize.ParametrizationList)]


def test_hidden_layers_get_candidates_and_the_head_does_not(task):
    model = create("subset").prepare(task.model(), seed=0)
    assert [tuple(layer.original.shape) for layer in layers(model)] == [(1, 24, 5), (1, 24, 1)]
    assert type(model[2]) is nn.Linear
    with pytest.raises(Mismatch, match="no hidden layer"):
        create("subset").prepare(nn.Linear(2, 2), seed=0)
    with pytest.raises(InvalidSpec, match="no hidden layer"):
        create("subset", patterns=["2"]).prepare(task.model(), seed=0)


def test_a_step_trains_the_chosen_neurons_alone(task):
    method = create("subset")
    model = method.prepare(task.model(), seed=0)
    weight, bias = layers(model)
    before = weight.original.detach().clone(), bias.original.detach().clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    method.step(model, [task.batch()], task.compute_loss, step=0)
    chosen = weight[0].selection.rows[0]
    assert set(chosen.tolist()) == set(select_rows(before[0][0], 8))
    optimizer.step()
    others = [i for i in range(24) if i not in chosen.tolist()]
    assert torch.equal(weight.original[0, others], before[0][0, others])
    assert torch.equal(bias.original[0, others], before[1][0, others])
    assert (weight.original[0, chosen] - before[0][0, chosen]).abs().amax(1).min() >= 0
    assert (weight.original[0, chosen] != before[0][0, chosen]).any()
    torch.testing.assert_close(model[0].weight, weight.original[0, chosen])
    torch.testing.assert_close(model[0].bias, bias.original[0, chosen, 0])


def test_it_learns_and_leaves_the_best_neurons(task):
    method = create("subset")
    plain = task.model()
    keys = list(plain.state_dict())
    model = method.prepare(plain, seed=0)
    optimizer = method.optimizer(model, torch.optim.Adam(model.parameters(), lr=0.02))
    fixed, losses = [task.batch()], []
    for step in range(60):
        optimizer.zero_grad()
        losses.append(float(method.step(model, fixed, task.compute_loss, step=step).loss))
        optimizer.step()
        method.after_step(model, step=step)
    assert losses[-1] < 0.7 * losses[0]
    weight = layers(model)[0].original.detach().clone()[0]
    finished = method.finish(model)
    assert list(finished.state_dict()) == keys
    assert type(finished[0]) is nn.Linear
    best = weight[sorted(select_rows(weight, 8))]
    torch.testing.assert_close(finished[0].weight.detach().sort(0).values, best.sort(0).values)


def test_a_checkpoint_holds_the_choice_once(task):
    method = create("subset")
    model = method.prepare(task.model(), seed=0)
    task.train(method, model, torch.optim.SGD(model.parameters(), lr=0.5), steps=3)
    assert sum("rows" in name for name in model.state_dict()) == 1
    other = create("subset").prepare(task.model(seed=1), seed=1)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(task.batch()[0]), model(task.batch()[0]))


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (lambda: MlpEnsemble(5, [4, 6], 3, 2, True), (4, 5)),
        (lambda: nn.Sequential(nn.Conv2d(2, 6, 3, groups=2), nn.ReLU(), nn.Conv2d(6, 3, 3)), (4, 2, 6, 6)),
    ],
)
def test_members_and_groups_choose_for_themselves(task, model, shape):
    """Every block of a block-diagonal layer, and every group of a convolution, keeps its number of neurons."""
    plain, x = model(), torch.randn(shape)
    before = {name: tuple(p.shape) for name, p in plain.named_parameters()}
    expected = plain(x)
    method = create("subset")
    prepared = method.prepare(plain, seed=0)
    torch.testing.assert_close(prepared(x), expected)  # at first the neurons that were there
    method.choose(prepared)
    blocks = {rows.layout.blocks for rows in prepared.modules() if isinstance(rows, Rows)}
    assert 2 in blocks
    chosen = prepared(x)
    assert chosen.shape == expected.shape
    finished = method.finish(prepared)
    assert {name: tuple(p.shape) for name, p in finished.named_parameters()} == before
    torch.testing.assert_close(finished(x), chosen)


def test_a_new_weight_replaces_all_candidates(task):
    model = create("subset").prepare(task.model(), seed=0)
    model[0].weight = torch.ones(8, 5)
    assert torch.equal(layers(model)[0].original, torch.ones(1, 24, 5))

"""Algorithm 2.1 as a method: p follows from the step, and the collapsed model is what is left."""

import copy

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounter

from collegium.search.errors import InvalidSpec
from collegium.train.majority.draw import probabilities
from collegium.train.majority.kernel import majority_kernels
from collegium.train.methods import create
from collegium.train.methods.majority import Majority
from collegium.train.models.build import Blueprint


def run(task, method, *, steps, seed=3, model=None, first=0, state=None, parts=1):
    model = method.prepare(model or task.model(), seed=seed)
    optimizer = method.optimizer(model, torch.optim.Adam(model.parameters(), lr=0.01))
    if state is not None:
        model.load_state_dict(state[0])
        optimizer.load_state_dict(state[1])
    task.train(method, model, optimizer, steps=steps, first=first, parts=parts)
    return model, optimizer


def test_a_resumed_run_ends_in_the_same_weights(task):
    whole, _ = run(task, create("majority"), steps=6)
    half, optimizer = run(task, create("majority"), steps=3)
    state = copy.deepcopy((half.state_dict(), optimizer.state_dict()))
    rest, _ = run(task, create("majority"), steps=3, first=3, state=state, seed=99)
    for one, other in zip(rest.parameters(), whole.parameters(), strict=True):
        assert torch.equal(one, other)


def test_accumulation_takes_the_step_of_the_whole_batch(task):
    whole, _ = run(task, create("majority"), steps=3)
    parts, _ = run(task, create("majority"), steps=3, parts=3)
    for one, other in zip(parts.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_fusing_the_update_changes_nothing(task):
    class Plain(Majority):
        def optimizer(self, model, optimizer):
            return optimizer

    fused, _ = run(task, create("majority"), steps=5)
    plain, _ = run(task, Plain(), steps=5)
    for one, other in zip(fused.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_it_learns_and_leaves_a_plain_model(task):
    method, model = create("majority"), task.model(norm=True)
    keys, kinds = list(model.state_dict()), [type(module) for module in model.modules()]
    prepared = method.prepare(model, seed=0)
    optimizer = method.optimizer(prepared, torch.optim.Adam(prepared.parameters(), lr=0.02))
    fixed = [task.batch()]
    losses = []
    for step in range(80):
        optimizer.zero_grad()
        losses.append(float(method.step(prepared, fixed, task.compute_loss, step=step).loss))
        optimizer.step()
    assert losses[-1] < 0.5 * losses[0]
    means = [copies.detach().mean(0) for copies in prepared.parameters() if copies.dim() == 3]
    finished = method.finish(prepared)
    assert list(finished.state_dict()) == keys
    assert [type(module) for module in finished.modules()] == kinds
    torch.testing.assert_close([finished[0].weight.detach(), finished[3].weight.detach()], means)


def test_sampled_weights_differ_from_call_to_call_and_from_the_mean(task):
    method = create("majority")
    model = method.prepare(task.model(), seed=0).eval()
    x = task.batch()[0]
    mean, outputs = model(x), []
    for _ in range(2):
        with method.sampled(model):
            outputs.append(model(x))
            assert torch.equal(model(x), outputs[-1])
    assert not torch.isclose(outputs[0], outputs[1]).all()
    assert not torch.isclose(outputs[0], mean).all()
    assert torch.equal(model(x), mean)


def test_evaluation_of_sampled_weights_leaves_the_training_alone(task):
    plain, _ = run(task, create("majority"), steps=4)
    method = create("majority")
    model, optimizer = run(task, method, steps=2)
    with method.sampled(model), torch.no_grad():
        model.eval()(task.batch()[0])
        model.train()
    task.train(method, model, optimizer, steps=2, first=2)
    for one, other in zip(model.parameters(), plain.parameters(), strict=True):
        assert torch.equal(one, other)


def test_options(task):
    replicated = create("majority", copies=2, initialization="replicated", patterns=["0"])
    model = task.model()
    weight = model[0].weight.detach().clone()
    model = replicated.prepare(model, seed=0)
    assert list(majority_kernels(model)) == ["0.parametrizations.weight.0"]
    assert torch.equal(model[0].parametrizations.weight.original, weight.expand(2, -1, -1))
    corrected = create("majority", initialization="independent", correct_scale=True).prepare(task.model(), seed=0)
    torch.testing.assert_close(corrected[0].parametrizations.weight.original[0], weight * 2**0.5)
    with pytest.raises(InvalidSpec, match="has no kernel to expand"):
        create("majority", patterns=["1"]).prepare(task.model(), seed=0)
    with pytest.raises(RuntimeError, match="prepare a model first"):
        create("majority").step(model, [task.batch()], task.compute_loss, step=0)


@pytest.mark.parametrize(
    "plan",
    [
        Blueprint(
            "collegium.train.models.ensembles:MlpEnsemble",
            {"inputs": 5, "hidden": [4, 4], "outputs": 3, "members": 3, "bias": True},
        ),
        Blueprint(
            "collegium.train.models.residual:ResNet",
            {
                "block": "bottleneck", "stem_kernel": 3, "stem_channels": 4, "groups": 2, "classes": 3,
                "stages": [[{"inputs": 4, "widths": [4, 4], "outputs": 8, "stride": 1}]],
            },
        ),
    ],
    ids=lambda plan: plan.network,
)  # fmt: skip
def test_collegial_ensembles_can_be_expanded(task, plan):
    """Block-diagonal layers and grouped convolutions: every kernel, and what is left loads into the plain network."""
    method = create("majority")
    model = method.prepare(plan.build(seed=0), seed=0)
    expanded = [parameter for name, parameter in model.named_parameters() if name.endswith(".original")]
    assert len(expanded) == len(majority_kernels(model)) == len(_kernel_names(plan))
    x = torch.randn(4, 5) if plan.network == "MlpEnsemble" else torch.randn(4, 3, 8, 8)
    optimizer = method.optimizer(model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9))
    for step in range(2):
        optimizer.zero_grad()
        method.step(model, [(x, torch.tensor([0, 1, 2, 0]))], task.compute_loss, step=step)
        optimizer.step()
    for kernel, copies in zip(majority_kernels(model).values(), expanded, strict=True):
        assert (copies[0] - copies[1]).abs().max() > 0
        assert probabilities(kernel.draw, 3, copies.shape[1:]).shape == copies.shape
    expected = model.eval()(x)
    plain = plan.build(seed=1)
    plain.load_state_dict(method.finish(model).state_dict())
    torch.testing.assert_close(plain.eval()(x), expected)
    assert not any(isinstance(module, nn.utils.parametrize.ParametrizationList) for module in model.modules())


def _kernel_names(plan):
    """Names of all weights but the norms'."""
    return [name for name, p in plan.build(seed=0).named_parameters() if p.dim() > 1 and "bias" not in name]


def test_graphs_take_the_weights_that_the_fused_update_has_mixed(task):
    """One graph for all steps; the copies have no gradient."""
    torch._dynamo.reset()
    ends, counter = [], CompileCounter()
    for graphs in (False, True):
        method = create("majority")
        method.compiles = True
        model = method.prepare(task.model(), seed=3)
        optimizer = method.optimizer(model, torch.optim.Adam(model.parameters(), lr=0.01))
        running = torch.compile(model, backend=counter) if graphs else model
        for step in range(4):
            optimizer.zero_grad()
            x, y = task.batch(seed=step)
            batches = list(zip(x.chunk(2), y.chunk(2), strict=True))
            method.step(running, batches, task.compute_loss, step=step)
            leaves = [kernel.leaf for kernel in majority_kernels(model).values()]
            assert all(leaf.gradient is not None and leaf.held is None for leaf in leaves)
            optimizer.step()
        ends.append([parameter.detach().clone() for parameter in model.parameters()])
    assert counter.frame_count == 1
    torch.testing.assert_close(*ends)

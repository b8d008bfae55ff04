"""Several trainings in the threads of one process leave each other alone."""

import copy
import sys
import threading

import pytest
import torch
from torch import nn

from collegium import collapse, expand, fuse
from collegium.train.majority.kernel import majority_clocks

X = torch.linspace(-1, 1, 30).view(6, 5)


def network(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))


def train(model, optimizer):
    optimizer.zero_grad()
    model(X).square().sum().backward()
    optimizer.step()


def run(plain, seed):
    """A training in which models are expanded, copied and collapsed, as by a study; its weights."""
    model = expand(copy.deepcopy(plain), 3, seed=seed)
    optimizer = fuse(torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9), model)
    for _ in range(30):
        train(model, optimizer)
        collapse(copy.deepcopy(model)).eval()(X)
    return [parameter.detach() for parameter in model.parameters()]


def test_trainings_in_threads_are_those_one_by_one():
    plains = [network(seed) for seed in range(6)]
    alone = [run(plain, seed) for seed, plain in enumerate(plains)]
    found, errors = {}, []

    def work(seed):
        try:
            found[seed] = run(plains[seed], seed)
        except BaseException as error:
            errors.append(error)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)  # threads change places within any function
    try:
        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert not errors
    for seed, parameters in enumerate(alone):
        assert all(torch.equal(one, other) for one, other in zip(parameters, found[seed], strict=True))


@pytest.mark.parametrize("steps", [1, 3])
def test_a_backward_pass_keeps_its_p_while_another_thread_takes_steps(steps):
    """Optimizers that step within the backward pass end the step when that is over, in its own thread."""
    model, other = expand(network(0), 3, seed=0), expand(network(1), 3, seed=1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    second = torch.optim.SGD(other.parameters(), lr=0.1)
    (clock,), seen = majority_clocks(model), []

    def step_and_look(_):
        optimizer.step()
        for _ in range(steps):
            thread = threading.Thread(target=train, args=(other, second))
            thread.start()
            thread.join()
        seen.append(clock.step)

    model[2].parametrizations.weight.original.register_post_accumulate_grad_hook(step_and_look)
    for number in range(3):
        model(X).square().sum().backward()
        assert seen.pop() == number
        assert clock.step == number + 1

"""Modules × wrappers × optimizers: what is read is the mean of what is stored, and a resumed run is a whole one.

For every combination: evaluation equals the plain network with the mean of the copies; ``collapse`` leaves that
network, with its names, their order and their parameters; a run that is saved and resumed with new objects ends in the
weights of a whole one, bit for bit. A few combinations are fast tests; the slow ones hold every pair of a module, a
wrapper, an optimizer, and whether it is fused.
"""

import copy
import itertools
import pickle

import pytest
import torch
from torch import nn

from collegium import collapse, expand, fuse


class Shared(nn.Module):
    """One weight used twice, and an embedding tied to the head."""

    def __init__(self):
        super().__init__()
        self.embed, self.first, self.second, self.head = nn.Embedding(5, 4), nn.Linear(4, 4), nn.Linear(4, 4), None
        self.second.weight = self.first.weight
        self.head = nn.Linear(4, 5, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens):
        return self.head(self.second(torch.tanh(self.first(self.embed(tokens)))))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder, self.head = nn.GRU(4, 4, batch_first=True), nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.encoder(x)[0])


class Experts(nn.Module):
    """Stacked experts, read one at a time."""

    def __init__(self):
        super().__init__()
        self.weights, self.gate = nn.Parameter(torch.randn(3, 4, 4) / 2), nn.Linear(4, 3)

    def forward(self, x):
        shares = torch.softmax(self.gate(x), -1)
        return sum(shares[..., expert, None] * (x @ self.weights[expert]) for expert in range(3))


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)

    def forward(self, x):
        return self.layer(x)


class Listed(nn.Module):
    """Matrices in a list, and a form of two arguments."""

    def __init__(self):
        super().__init__()
        self.matrices = nn.ParameterList([torch.randn(4, 4) / 2 for _ in range(2)])
        self.form = nn.Bilinear(4, 4, 3)

    def forward(self, x):
        for matrix in self.matrices:
            x = torch.tanh(x @ matrix)
        return self.form(x, x)


MODULES = {
    "mlp": (lambda: nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)), (6, 4), {}),
    "norm": (lambda: nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)), (6, 4), {}),
    "convolution": (
        lambda: nn.Sequential(nn.Conv2d(4, 8, 3, groups=2), nn.Flatten(), nn.Linear(32, 3)),
        (6, 4, 4, 4),
        {},
    ),
    "shared": (Shared, None, {}),
    "attention": (Attention, (2, 3, 8), {}),
    "recurrent": (Recurrent, (2, 3, 4), {"include": [nn.GRU, nn.Linear]}),
    "experts": (Experts, (5, 4), {"include": ["gate", "weights"]}),
    "list": (Listed, (5, 4), {"include": ["matrices.[01]", "form"]}),
}


class Wrapped(nn.Module):
    """Forwards attributes to what it wraps."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.module, name)

    def forward(self, x):
        return self.module(x)


class Checkpointed(nn.Module):
    """Computes what it wraps again in the backward pass."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, x):
        if x.is_floating_point():
            x = x.clone().requires_grad_()
        return torch.utils.checkpoint.checkpoint(self.module, x, use_reentrant=False)


WRAPPERS = {
    "plain": lambda module: module,
    "forwarding": Wrapped,
    "checkpointed": Checkpointed,
    "pickled": lambda module: pickle.loads(pickle.dumps(module)),
    "compiled": lambda module: torch.compile(module, backend="eager"),
}
OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05),
    "nesterov": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True, weight_decay=1e-2),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "fused adam": lambda p: torch.optim.Adam(p, lr=0.01, fused=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1, foreach=True),
    "nadam": lambda p: torch.optim.NAdam(p, lr=0.01),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.9),
    "adafactor": lambda p: torch.optim.Adafactor(p, lr=0.01),
    "lbfgs": lambda p: torch.optim.LBFGS(p, lr=0.1, max_iter=3),
}
FAST = [
    ("mlp", "plain", "adam", True),
    ("norm", "plain", "nesterov", True),
    ("convolution", "forwarding", "fused adam", True),
    ("shared", "plain", "adamw", False),
    ("attention", "checkpointed", "sgd", True),
    ("recurrent", "plain", "adam", True),
    ("experts", "plain", "lbfgs", False),
    ("list", "pickled", "nadam", False),
    ("recurrent", "pickled", "adam", True),
]


def combined():
    """Every module with every optimizer, and the other two in turn."""
    wrappers = list(WRAPPERS)
    for (row, module), (column, optimizer) in itertools.product(enumerate(MODULES), enumerate(OPTIMIZERS)):
        wrapper = wrappers[(row + column) % len(wrappers)]
        if module == "recurrent" and wrapper == "compiled":  # torch.compile leaves recurrent layers alone
            wrapper = "plain"
        yield module, wrapper, optimizer, (row // 2 + column) % 2 == 0


def cases():
    slow = [pytest.param(*case, marks=pytest.mark.slow) for case in combined() if case not in FAST]
    return [*(pytest.param(*case) for case in FAST), *slow]


def test_every_pair_is_combined():
    factors = (MODULES, WRAPPERS, OPTIMIZERS, (False, True))
    cases = [*combined(), *FAST]
    for one, two in itertools.combinations(range(len(factors)), 2):
        wanted = set(itertools.product(factors[one], factors[two])) - {("recurrent", "compiled")}
        assert wanted <= {(case[one], case[two]) for case in cases}


class Run:
    """An expanded model, its optimizer and schedule."""

    def __init__(self, module, wrapper, optimizer, fused):
        make, self.shape, rules = MODULES[module]
        torch.manual_seed(0)
        self.plain = make()
        self.wrapper = WRAPPERS[wrapper]
        self.model = self.wrapper(expand(copy.deepcopy(self.plain), 3, seed=1, **rules))
        self.optimizer = OPTIMIZERS[optimizer](self.model.parameters())
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, 5)
        if fused:
            fuse(self.optimizer, self.model)

    def batch(self, step):
        generator = torch.Generator().manual_seed(step)
        if self.shape is None:
            return torch.randint(5, (4, 3), generator=generator)
        return torch.randn(self.shape, generator=generator)

    def train(self, steps, first=0):
        self.model.train()
        for step in range(first, first + steps):

            def closure(step=step):
                self.optimizer.zero_grad()
                for part in self.batch(step).chunk(2):
                    loss = self.model(part).square().mean()
                    loss.backward()
                return loss

            self.optimizer.step(closure)
            self.schedule.step()
        return self

    def parts(self):
        return self.model, self.optimizer, self.schedule

    def outputs(self, model):
        with torch.no_grad():
            return model.eval()(self.batch(99))


def means(state):
    """The plain network's state: means in the place of copies."""
    found = {}
    for name, value in state.items():
        plain = name.replace("module.", "").replace("_orig_mod.", "")
        if plain.endswith(".original"):
            found[plain.replace("parametrizations.", "").removesuffix(".original")] = value.detach().mean(0)
        elif not plain.endswith("_extra_state"):
            found[plain] = value
    return found


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.parametrize(("module", "wrapper", "optimizer", "fused"), cases())
def test_evaluation_collapse_and_resumption(module, wrapper, optimizer, fused):
    torch._dynamo.reset()
    whole = Run(module, wrapper, optimizer, fused).train(2)
    saved = copy.deepcopy([part.state_dict() for part in whole.parts()])
    whole.train(2, first=2)

    resumed = Run(module, wrapper, optimizer, fused)
    for part, state in zip(resumed.parts(), saved, strict=True):
        part.load_state_dict(state)
    resumed.train(2, first=2)
    for (name, one), other in zip(whole.model.named_parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(one, other), name

    outputs = whole.outputs(whole.model)
    plain = copy.deepcopy(whole.plain)
    plain.load_state_dict(means(whole.model.state_dict()))
    torch.testing.assert_close(outputs, whole.outputs(plain), rtol=1e-4, atol=1e-5)

    expanded = dict(whole.model.named_parameters())
    parameters = {id(parameter) for parameter in expanded.values()}
    collapse(whole.model)
    torch.testing.assert_close(whole.outputs(whole.model), outputs, rtol=1e-4, atol=1e-5)
    assert [n.replace("module.", "").replace("_orig_mod.", "") for n in whole.model.state_dict()] == list(
        whole.plain.state_dict()
    )
    assert all(id(parameter) in parameters for parameter in whole.model.parameters())

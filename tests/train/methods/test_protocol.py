"""What every registered method keeps, whatever it does: the protocol of collegium.train.methods.method."""

import copy
import doctest
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from collegium import kernel_spread
from collegium.registry import UnknownExtension
from collegium.train import methods
from collegium.train.methods import METHODS, create, describe_methods
from collegium.train.methods.method import Method, MethodOptions

NAMES = METHODS.names
TRAINING = [name for name in NAMES if METHODS[name].trains]


def prepared(task, name, *, seed=0):
    """A method whose independent models, if it needs any, are trained, and its prepared model."""
    method = create(name)
    if method.independent_models:
        method.combine([task.model(seed=10 + index) for index in range(method.independent_models)], lambda model: 0.0)
    method.rates(lambda step: 0.05, steps=2)  # methods that begin late begin in the second step
    return method, method.prepare(task.model(seed=seed, norm=True), seed=seed)


def trained(task, name, steps=3):
    """The same after some steps, with its optimizer."""
    method, model = prepared(task, name)
    optimizer = method.optimizer(model, torch.optim.Adam(model.parameters(), lr=0.05))
    task.train(method, model, optimizer, steps=steps)
    return method, model, optimizer


def logits(model, task):
    """In evaluation mode."""
    model.eval()
    with torch.no_grad():
        return model(task.batch()[0]).clone()


def test_importing_every_method_loads_no_torch():
    code = (
        "import sys\n"
        "from collegium.train.methods import METHODS, describe_methods\n"
        "assert len(describe_methods()) == len(METHODS.names)\n"
        "assert not METHODS.broken()\n"
        "for name in METHODS.names: METHODS[name]().independent_models\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_the_example_of_the_registry_runs():
    failed, run = doctest.testmod(methods)
    assert (failed, run > 0) == (0, True)


@pytest.mark.parametrize("name", NAMES)
def test_a_method_describes_itself(name):
    method = create(name)
    assert isinstance(method, Method)
    assert issubclass(method.Options, MethodOptions)
    assert method.name == name
    assert method.summary
    assert "\n" not in method.summary
    assert (
        method.expansion == method.Options.model_fields["copies"].default
        if "copies" in method.Options.model_fields
        else 1
    )
    assert method.trains or method.independent_models
    method.load_state_dict(method.state_dict())


@pytest.mark.parametrize("described", describe_methods(), ids=lambda described: described["name"])
def test_every_option_has_a_description_a_schema_and_its_default(described):
    options = METHODS[described["name"]].Options
    assert [option["name"] for option in described["options"]] == list(options.model_fields)
    for option in described["options"]:
        assert option["description"]
        assert option["schema"]
        assert option["default"] == options().model_dump(mode="json")[option["name"]]


def test_unknown_names_and_options_are_refused():
    with pytest.raises(UnknownExtension, match="'boosting'; there are vanilla, majority"):
        create("boosting")
    with pytest.raises(ValueError, match="temperature"):
        create("vanilla", temperature=1)


@pytest.mark.parametrize("name", TRAINING)
def test_evaluation_of_the_prepared_model_is_that_of_the_finished_one(task, name):
    method, model, _ = trained(task, name)
    expected = logits(model, task)
    plain = method.finish(model)
    torch.testing.assert_close(logits(plain, task), expected)
    assert list(plain.state_dict()) == list(task.model(norm=True).state_dict())
    assert [type(module) for module in plain] == [type(module) for module in task.model(norm=True)]


@pytest.mark.parametrize("name", TRAINING)
def test_the_models_state_holds_all_that_its_evaluation_depends_on(task, name):
    """Early stopping keeps this state alone, and checkpoints it with the optimizer's and the method's."""
    _, model, _ = trained(task, name)
    method, other = prepared(task, name, seed=5)
    other.load_state_dict(copy.deepcopy(model.state_dict()))
    assert torch.equal(logits(other, task), logits(model, task))
    assert torch.equal(logits(method.finish(other), task), logits(model, task))


@pytest.mark.parametrize("name", TRAINING)
def test_a_resumed_training_takes_the_same_steps(task, name):
    method, model, optimizer = trained(task, name, steps=2)
    state = copy.deepcopy([method.state_dict(), model.state_dict(), optimizer.state_dict()])
    task.train(method, model, optimizer, steps=2, first=2)
    method, resumed = prepared(task, name, seed=0)
    optimizer = method.optimizer(resumed, torch.optim.Adam(resumed.parameters(), lr=0.05))
    for part, kept in zip((method, resumed, optimizer), state, strict=True):
        part.load_state_dict(kept)
    task.train(method, resumed.train(), optimizer, steps=2, first=2)
    assert torch.equal(logits(resumed, task), logits(model, task))


@pytest.mark.parametrize("name", TRAINING)
def test_the_configuration_of_a_transformer_is_carried(task, name):
    method, plain = create(name), task.model()
    plain.config = SimpleNamespace(decoder_start_token_id=0)
    assert method.prepare(plain, seed=0).config is plain.config


@pytest.mark.parametrize("name", NAMES)
def test_memory_counts_all_that_is_trained_and_kept(task, name):
    """Never less than the tensors that there are, in units of the plain model's parameters."""
    method, model = prepared(task, name)
    plain = sum(parameter.numel() for parameter in task.model(norm=True).parameters())
    there = [tensor for tensor in model.state_dict().values() if tensor.is_floating_point()]
    buffers = sum(tensor.numel() for tensor in task.model(norm=True).buffers())
    gradients = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert gradients <= method.trained_copies * plain
    assert sum(map(torch.numel, there)) <= method.trained_copies * plain + buffers + method.kept_models * (
        plain + buffers
    )
    assert method.kept_models >= method.independent_models


@pytest.mark.parametrize("name", [name for name in NAMES if METHODS[name].expands])
def test_an_expanding_method_trains_more_than_the_plain_model(task, name):
    method, model = prepared(task, name)
    plain = task.model(norm=True)
    expanded = sum(parameter.numel() for parameter in model.parameters())
    assert expanded > sum(parameter.numel() for parameter in plain.parameters())
    assert method.expansion > 1


@pytest.mark.parametrize("name", [name for name in NAMES if not METHODS[name].trains])
def test_a_method_that_does_not_train_combines_models(task, name):
    method = create(name)
    models = [task.model(seed=index) for index in range(method.independent_models)]
    assert isinstance(method.combine(models, lambda model: 0.0), nn.Module)


@pytest.mark.parametrize("name", [name for name in NAMES if "initialization" in METHODS[name].Options.model_fields])
@pytest.mark.parametrize("initialization", [None, "perturbed", "independent", "replicated"])
@pytest.mark.parametrize("pretrained", [False, True])
def test_copies_are_apart_after_a_training_however_they_begin(task, name, initialization, pretrained):
    try:
        options = METHODS[name].Options(initialization=initialization).suited_to(pretrained=pretrained)
    except ValidationError:
        assert initialization == "replicated"
        assert name in ("adversarial", "learned")
        return
    method = METHODS[name](options)
    model = method.prepare(task.model(), seed=0)
    optimizer = method.optimizer(model, torch.optim.Adam(model.parameters(), lr=0.05))
    task.train(method, model, optimizer, steps=3)
    assert min(kernel_spread(model).values()) > 1e-6

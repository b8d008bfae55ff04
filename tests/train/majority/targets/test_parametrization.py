"""What takes a parameter's place is converted as the parameter would be, and is not replaced by another one."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn
from torch.ao import quantization
from torch.nn.utils import parametrize, prune
from torch.nn.utils.fusion import fuse_conv_bn_eval

from collegium import collapse, expand, fuse, majority_kernels
from collegium.train.majority.kernel import majority_clocks


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv1d(36, 4, 1), nn.Flatten(), nn.Linear(32, 3))


class Images(nn.Module):
    """Images, then a sequence: kernels of two, three and four axes."""

    def __init__(self):
        super().__init__()
        self.layers = network()

    def forward(self, x):
        convolution, norm, sequence, flatten, head = self.layers
        return head(flatten(sequence(norm(convolution(x)).flatten(2).transpose(1, 2))))


def images(step):
    generator = torch.Generator().manual_seed(step)
    return torch.randn(4, 3, 8, 8, generator=generator).to(memory_format=torch.channels_last)


def trained(*, convert_at, fused):
    model = Images()
    if convert_at == "before expand":
        model.to(memory_format=torch.channels_last)
    expand(model, 3, seed=0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    if fused:
        fuse(optimizer, model)
    for step in range(3):
        if step == convert_at:
            model.to(memory_format=torch.channels_last)
        optimizer.zero_grad()
        model(images(step)).square().mean().backward()
        optimizer.step()
    return model


@pytest.mark.parametrize("fused", [False, True])
def test_reads_pass_hooks_of_the_parametrization_and_torch_s_cache(fused):
    model, seen = expand(network(), 3, seed=0), []
    if fused:
        fuse(torch.optim.SGD(model.parameters(), lr=0.1), model)
    kernels = model[0].parametrizations.weight
    handles = [step.register_forward_hook(lambda *_: seen.append(1)) for step in (kernels, kernels[0])]
    x = torch.randn(2, 3, 8, 8)
    model[0](x)
    assert len(seen) == 2
    for handle in handles:
        handle.remove()
    model[0](x)
    assert len(seen) == 2
    with parametrize.cached():
        assert model[0].weight is model[0].weight


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("convert_at", ["before expand", 0, 1])
def test_channels_last_changes_nothing_but_the_layout(convert_at, fused):
    plain, model = trained(convert_at=None, fused=False), trained(convert_at=convert_at, fused=fused)
    for one, other in zip(plain.parameters(), model.parameters(), strict=True):
        assert other.is_contiguous() or other.shape[:1] != (3,)
        torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        expected = model.eval()(images(9))
        torch.testing.assert_close(collapse(model)(images(9)), expected)


def test_other_conversions_are_those_of_a_plain_model():
    model = expand(network(), 3)
    assert {p.dtype for p in model.double().parameters()} == {torch.float64}
    assert {p.device.type for p in copy.deepcopy(model).to("meta").parameters()} == {"meta"}
    assert all(parameter.is_shared() for parameter in model.share_memory().parameters())
    with pytest.raises(TypeError, match="only accepts floating point"):
        model.to(torch.int32)
    assert "ParametrizationList" in repr(model)


def test_a_parameter_in_the_place_of_copies_is_refused():
    model = expand(network(), 3).eval()
    weight, twin = model[0].weight.detach().clone(), copy.deepcopy(model)
    for each in (model, twin):
        with pytest.raises(RuntimeError, match=r"'weight' has copies here.*layer\.weight = value\.detach\(\)"):
            each[0].weight = nn.Parameter(weight)
        with pytest.raises(RuntimeError, match="collapse the model first"):
            fuse_conv_bn_eval(each[0], each[1])
        each[0].weight = weight * 2
        torch.testing.assert_close(each[0].weight, weight * 2)
        each[0].register_parameter("other", nn.Parameter(torch.zeros(1)))
        each[0].bias = nn.Parameter(torch.ones(8))
    collapse(model)[0].weight = nn.Parameter(weight)
    assert torch.equal(model[0].weight, weight)
    fuse_conv_bn_eval(model[0], model[1])


def test_a_weight_with_copies_is_not_pruned():
    layer = expand(nn.Linear(4, 3), 3, seed=0)
    names, copies = list(layer.state_dict()), layer.parametrizations.weight.original.clone()
    with pytest.raises(RuntimeError, match=r"parameter 'weight_orig', as pruning wants: collapse the model first"):
        prune.l1_unstructured(layer, "weight", 0.5)
    assert list(layer.state_dict()) == names
    assert torch.equal(layer.parametrizations.weight.original, copies)
    layer(torch.ones(1, 4)).sum().backward()


def test_a_class_over_that_of_the_parametrized_module():
    layer = expand(nn.Linear(4, 3), 3)
    layer.__class__ = type("Sharded", (layer.__class__,), {})  # as torch's fully_shard does
    layer.register_parameter("scale", nn.Parameter(torch.ones(1)))
    assert "scale" in dict(layer.named_parameters())


class Everything(nn.Module):
    """Kernels of several kinds, a recurrent one and tied ones, and a method that is guarded."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.recurrent, self.attention = nn.LSTM(4, 4, batch_first=True), nn.MultiheadAttention(4, 2, batch_first=True)
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.first.weight

    def forward(self, x):
        x = self.recurrent(x)[0]
        return self.second(torch.tanh(self.first(self.attention(x, x, x)[0])))

    def save_pretrained(self, folder):
        return folder


def everything():
    return expand(Everything(), 3, include=[nn.LSTM, nn.MultiheadAttention, nn.Linear], seed=0)


def sequences(step):
    return torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(step))


def steps(model, numbers):
    optimizer = torch.optim.SGD(model.train().parameters(), lr=0.1)
    for number in numbers:
        optimizer.zero_grad()
        model(sequences(number)).square().mean().backward()
        optimizer.step()
    return model


def saved_and_loaded(model):
    memory = io.BytesIO()
    torch.save(model, memory)
    memory.seek(0)
    return torch.load(memory, weights_only=False)


@pytest.mark.parametrize("by", [saved_and_loaded, lambda model: pickle.loads(pickle.dumps(model)), copy.deepcopy])
def test_a_whole_model_that_is_pickled_goes_on_with_the_same_draws(by):
    model = steps(everything(), range(2))
    fuse(torch.optim.SGD(model.parameters(), lr=0.1), model)
    twin = by(model)
    assert list(twin.state_dict()) == list(model.state_dict())
    assert twin.second.parametrizations.weight.original is twin.first.parametrizations.weight.original
    assert type(twin.first) is not type(twin.second)
    for one, other in zip(steps(model, (2, 3)).parameters(), steps(twin, (2, 3)).parameters(), strict=True):
        torch.testing.assert_close(one, other)
    with pytest.warns(UserWarning, match="is expanded"):
        twin.save_pretrained("folder")
    with torch.no_grad():
        expected = twin.eval()(sequences(9))
        torch.testing.assert_close(collapse(twin)(sequences(9)), expected)
    assert [type(module) for module in twin.modules()] == [type(module) for module in Everything().modules()]
    assert list(twin.state_dict()) == list(Everything().state_dict())
    assert not vars(twin).keys() & {"save_pretrained"}


def outputs(model, x, found):
    with torch.no_grad():
        found.put((model.eval()(x).tolist(), next(iter(majority_kernels(model).values())).clock.step))


@pytest.mark.slow
def test_another_process_evaluates_the_model_that_it_is_given():
    model = steps(everything(), range(2))
    context = torch.multiprocessing.get_context("spawn")
    found = context.SimpleQueue()
    process = context.Process(target=outputs, args=(model, sequences(9), found))
    process.start()
    values, step = found.get()
    process.join()
    with torch.no_grad():
        torch.testing.assert_close(torch.tensor(values), model.eval()(sequences(9)))
    assert step == 2


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("assign", [True, False])
def test_the_state_of_a_plain_model_is_taken_by_all_copies(strict, assign):
    plain, model = Everything(), steps(everything(), range(2))
    with torch.no_grad():
        for parameter in plain.parameters():
            parameter.mul_(0.5)
    given = plain.state_dict()
    model.load_state_dict(given, strict=strict, assign=assign)
    assert set(given) == set(plain.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(sequences(9)), plain.eval()(sequences(9)))
    copies = model.first.parametrizations.weight.original
    torch.testing.assert_close(copies, plain.first.weight.expand(3, 4, 4))
    assert majority_clocks(model)[0].step == 2
    steps(model, range(2, 4))
    assert not torch.equal(copies[0], copies[1])
    assert torch.equal(plain.first.weight, given["first.weight"])
    with pytest.raises(RuntimeError, match="size mismatch"):
        model.load_state_dict({**given, "first.weight": torch.zeros(3, 3)}, strict=False)
    with pytest.raises(RuntimeError, match=r"Unexpected key\(s\) in state_dict: \"third.weight\""):
        model.load_state_dict({**given, "third.weight": torch.zeros(3, 3)})


def test_a_changed_forward_of_the_parametrization_is_called():
    """As where accelerate brings the copies to a device before it calls what was there."""
    layer = expand(nn.Linear(4, 2))
    layer.parametrizations.weight.forward = lambda: torch.zeros(2, 4)
    assert torch.equal(layer(torch.ones(1, 4))[0], layer.bias)


@pytest.mark.parametrize("register", [nn.utils.parametrizations.weight_norm, nn.utils.parametrizations.spectral_norm])
def test_further_parametrizations_are_refused(register):
    layer = expand(nn.Linear(4, 4), seed=0)
    before = layer(torch.ones(1, 4))
    with pytest.raises(RuntimeError, match="takes no further parametrization"):
        register(layer)
    assert torch.equal(layer(torch.ones(1, 4)), before)


def test_expanding_a_copy_further_leaves_the_original():
    model = expand(nn.LSTM(4, 4), include="weight_ih_l0", seed=0)
    x = torch.randn(2, 1, 4)
    before, other = model(x)[0], copy.deepcopy(model)
    expand(other, include="weight_hh_l0", seed=0)
    assert torch.equal(model(x)[0], before)
    assert other(x)[0].shape == before.shape


@pytest.mark.parametrize("by", [saved_and_loaded, lambda model: pickle.loads(pickle.dumps(model)), copy.deepcopy])
def test_a_collapsed_model_keeps_nothing_of_the_optimizer_that_was_fused(by):
    model = everything()
    optimizer = fuse(torch.optim.Adam(model.parameters(), lr=0.1), model)
    for number in range(2):
        model(sequences(number)).square().mean().backward()
        optimizer.step()
    weight = model.first.parametrizations.weight.original
    collapse(model.eval())
    assert weight is model.first.weight
    assert type(weight) is nn.Parameter
    assert not vars(weight)
    torch.testing.assert_close(by(model)(sequences(5)), model(sequences(5)))


@pytest.mark.parametrize("convert", [nn.Module.double, lambda model: model.to("cpu")])
def test_converting_a_recurrent_layer_uses_no_p_and_keeps_no_weight(convert):
    model = expand(nn.LSTM(4, 4, batch_first=True), 3, include=[nn.LSTM], seed=0, spread=1.0)
    convert(model)
    kernel = next(iter(majority_kernels(model).values()))
    assert not kernel.clock.drawn
    assert model._flat_weights == [None] * 4
    x = sequences(0).to(next(model.parameters()).dtype)
    with torch.no_grad():
        mean = model(x)[0]
    torch.testing.assert_close(mean, collapse(model)(x)[0])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("first", ["expand", "prepare"])
def test_training_that_quantizes_is_collapsed_and_converted(first):
    """``prepare_qat`` moves parametrizations into modules of its own."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    names, x = list(model.state_dict()), torch.randn(5, 6)
    model.qconfig = quantization.get_default_qat_qconfig("fbgemm")
    if first == "expand":
        expand(model, 3, seed=0)
    model = quantization.prepare_qat(model)
    if first == "prepare":
        expand(model, 3, seed=0)
    optimizer = fuse(torch.optim.SGD(model.parameters(), lr=0.05), model)
    for _ in range(3):
        optimizer.zero_grad()
        model(x).square().sum().backward()
        optimizer.step()
    assert majority_clocks(model)[0].step == 3
    model.eval().apply(quantization.disable_observer)
    expected = model(x)
    torch.testing.assert_close(collapse(model)(x), expected)
    assert [name for name, _ in model.named_parameters()] == names
    assert "Quantized" in str(quantization.convert(model))

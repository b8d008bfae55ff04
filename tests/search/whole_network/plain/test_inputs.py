"""What a plain search reads and what of the outputs it measures: tokens, several tensors, names, containers."""

from __future__ import annotations

import re
from collections import namedtuple
from itertools import pairwise

import pytest
import torch
from torch import nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    T5Config,
    T5ForConditionalGeneration,
)

import collegium
from collegium.search.errors import InvalidSpec
from collegium.search.find import find_ensemble
from collegium.search.spec import SearchSpec
from collegium.search.whole_network.kernel import NetworkKernel
from collegium.search.whole_network.plain.inputs import batch_of, network_spec
from collegium.search.whole_network.plain.module import OwnCandidate, Subject

VOCABULARY, WIDTH = 11, 6


def gaussian_mlp(widths, first_gain=2.0):
    """In the NTK's own law: N(0, gain / fan-in), and N(0, 1 / fan-in) in the last layer."""
    layers = []
    for index, (a, b) in enumerate(pairwise(widths)):
        last = index == len(widths) - 2
        linear = nn.Linear(a, b, bias=False)
        nn.init.normal_(linear.weight, std=((1 if last else first_gain if index == 0 else 2) / a) ** 0.5)
        layers += [linear] if last else [linear, nn.ReLU()]
    return nn.Sequential(*layers)


class Tokens(nn.Module):
    """An embedding, and an MLP of each token; logits of every token, or of the last one alone."""

    def __init__(self, every=True):
        super().__init__()
        self.every, self.embedding = every, nn.Embedding(VOCABULARY, WIDTH)
        self.mlp = gaussian_mlp((WIDTH, 24, 24, 24, 3), first_gain=1.0)

    def forward(self, ids):
        found = self.mlp(self.embedding(ids))
        return found if self.every else found[:, -1]


class Two(nn.Module):
    """Numbers and tokens through one branch; a dictionary of a loss, and of what is nested, or the logits alone."""

    def __init__(self, alone=False):
        super().__init__()
        self.alone = alone
        self.first, self.embedding = nn.Linear(4, 6), nn.Embedding(9, 6)
        self.branch = nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 9), nn.Tanh(), nn.Linear(9, 3))
        self.other = nn.Linear(6, 2)

    def forward(self, x, ids, *, scale=None):
        h = self.first(x) + self.embedding(ids).mean(1)
        h = h if scale is None else h * scale
        if self.alone:
            return self.branch(h)
        return {"loss": h.sum(), "hidden": [self.branch(h)], "other": self.other(h)}


def kernel(model, example, described=None, **network):
    """Draws of the whole module's kernel, and their subject."""
    described = described or collegium.describe(model, example)
    spec = SearchSpec.model_validate({"baseline": described, "network": {"inputs": 1} | network})
    samples, call = batch_of(example, described, model, spec)
    settings = network_spec(spec, samples.count)
    subject = Subject.of(model, described, samples, call, settings)
    candidate = OwnCandidate("baseline", subject, (1,), 1, described.parameters)
    return NetworkKernel(candidate, settings, samples, "cpu"), subject


def drawn(model, example, **network):
    return kernel(model, example, **network)[0].draw(3, [0])[0]


def test_an_mlp_behind_an_embedding_varies_as_the_closed_form_says():
    torch.manual_seed(0)
    model, ids = Tokens(every=False), torch.randint(0, VOCABULARY, (2, 5))
    described = collegium.describe(model, ids)
    asked = {"parameterization": "ntk", "relative_error": 0.12, "images": 2, "inputs": 1}
    found = find_ensemble(described, model=model, example_input=ids, network=asked, space={"widths": [8]})
    # a row of the table is what a linear layer gives for √vocabulary times a unit vector: one more layer, without a φ
    linear = nn.Sequential(nn.Linear(VOCABULARY, WIDTH, bias=False), *model.mlp)
    exact = find_ensemble(collegium.describe(linear, torch.randn(1, VOCABULARY)), estimator={"method": "exact"})
    first = found.network.network("baseline")
    assert abs(first.relative_variance - exact.baseline.variance) < 4.5 * first.standard_error
    assert first.standard_error < 0.3 * first.relative_variance
    # and not that of the MLP alone, whose table adds nothing
    alone = find_ensemble(collegium.describe(model.mlp, torch.randn(1, WIDTH)), estimator={"method": "exact"})
    assert abs(exact.baseline.variance - alone.baseline.variance) > 4.5 * first.standard_error


def test_tokens_are_drawn_below_the_vocabulary_where_no_example_is_given():
    torch.manual_seed(0)
    model = Tokens()
    described = collegium.describe(model, {"ids": torch.zeros(1, 5, dtype=torch.long)})
    asked = {"relative_error": 0.5, "images": 3, "inputs": 2}
    found = find_ensemble(described, model=model, network=asked, space={"widths": [8]})
    said = found.network.statement
    assert f"random inputs of ids of 5 (integers from 0 to {VOCABULARY - 1})" in said
    assert "kernel at the last token" in said
    assert found.network.sample_shape == (5,)
    assert found.primal is not None


def test_logits_are_those_of_the_token_that_is_asked_for():
    torch.manual_seed(0)
    model, ids = Tokens(), torch.tensor([[4, 7, 1]])
    each = [drawn(model, ids[:, [place]]) for place in range(3)]
    assert drawn(model, ids) == pytest.approx(each[2])
    assert drawn(model, ids, position="last_token") == pytest.approx(each[2])
    assert drawn(model, ids, position="first_token") == pytest.approx(each[0])
    assert each[0] != pytest.approx(each[2])
    # of a map the first axis is that of logits: the token at 0, of its three numbers the one in the middle
    centre = by_hand(model, lambda made: made(ids)[0, 0, 1], "centre", ids)
    assert drawn(model, ids, position="centre") == pytest.approx(centre)
    for position, mean in (("mean", lambda y: y[0, 0].mean()), ("mean_token", lambda y: y[0, :, 0].mean())):
        expected = by_hand(model, lambda made, mean=mean: mean(made(ids)), position, ids)
        assert drawn(model, ids, position=position) == pytest.approx(expected)


def by_hand(model, entry, position, example, **network):
    """K of one number, by autograd at the weights of the same draw."""
    measured, _ = kernel(model, example, position=position, **network)
    measured.draw(3, [0])
    made = measured._module.module
    parameters = [each for each in made.parameters() if each.requires_grad]
    gradients = torch.autograd.grad(entry(made), parameters, materialize_grads=True)
    return sum(each.double().square().sum().item() for each in gradients)


def small_bert():
    config = BertConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, vocab_size=40,
        max_position_embeddings=12, num_labels=3,
    )  # fmt: skip
    ids, mask = torch.randint(0, 40, (2, 6)), torch.tensor([[1] * 6, [1, 1, 1, 1, 0, 0]])
    return BertForSequenceClassification(config), {"input_ids": ids, "attention_mask": mask}, lambda y: y.logits[0, 0]


def small_gpt2():
    config = GPT2Config(
        n_embd=16, n_layer=2, n_head=2, vocab_size=40, n_positions=12, bos_token_id=0, eos_token_id=1
    )  # fmt: skip
    return GPT2LMHeadModel(config), {"input_ids": torch.randint(0, 40, (2, 6))}, lambda y: y.logits[0, -1, 0]


def small_t5():
    config = T5Config(d_model=16, d_kv=8, d_ff=24, num_layers=1, num_heads=2, vocab_size=40)
    ids = torch.randint(0, 40, (2, 6))
    example = {"input_ids": ids, "decoder_input_ids": ids[:, :3]}
    return T5ForConditionalGeneration(config), example, lambda y: y.logits[0, -1, 0]


@pytest.mark.parametrize("make", [small_bert, small_gpt2, small_t5])
def test_transformers_are_measured_as_plain_gradients_are(make):
    torch.manual_seed(0)
    model, example, entry = make()
    model.eval()
    measured, subject = kernel(model, example)
    assert "of the output 'logits'" in subject.reading
    assert subject.outputs == (3 if make is small_bert else 40)
    own = {name: each[:1] for name, each in example.items()}
    expected = by_hand(model, lambda made: entry(made(**own)), None, example)
    assert measured.draw(3, [0]).item() == pytest.approx(expected, rel=1e-4)
    # a hidden state by its name, at another token
    if make is small_gpt2:
        entry = lambda made: made(**own, output_hidden_states=True).hidden_states[0][0, 0, 0]  # noqa: E731
        asked = {"output": "hidden_states", "position": "first_token"}
        states = example | {"output_hidden_states": True}
        found, _ = kernel(model, states, described=collegium.describe(model, example), **asked)
        expected = by_hand(model, entry, "first_token", states, output="hidden_states")
        assert found.draw(3, [0]).item() == pytest.approx(expected, rel=1e-4)


def test_a_classifier_on_bert_is_searched():
    torch.manual_seed(0)
    model, example, _ = small_bert()
    model.classifier = nn.Sequential(nn.Linear(16, 12), nn.GELU(), nn.Linear(12, 12), nn.GELU(), nn.Linear(12, 3))
    model.eval()
    described = collegium.describe(model, {name: each[:1] for name, each in example.items()})
    asked = {"relative_error": 0.5, "images": 2, "inputs": 1}
    found = find_ensemble(described, model=model, example_input=example, network=asked, space={"widths": [[8, 6, 6]]})
    assert found.method == "plain"
    assert "inputs of the data, input_ids of 6, attention_mask of 6" in found.network.statement
    (row,) = found.curve
    made = collegium.regroup(model, {"bert.pooler.dense": (row.primal_multiplicity, row.widths)}, baseline=described)
    assert sum(each.numel() for each in made.parameters()) == row.primal_parameters


def test_several_inputs_and_outputs_by_name():
    torch.manual_seed(0)
    model, alone = Two(), Two(alone=True)
    example = {"x": torch.randn(3, 4), "ids": torch.randint(0, 9, (3, 5)), "scale": torch.tensor(2.0)}
    asked = {"relative_error": 0.5, "images": 3, "inputs": 2}
    without = {name: each for name, each in example.items() if name != "scale"}
    found = find_ensemble(collegium.describe(alone, without), model=alone, network=asked, space={"widths": [4]})
    assert "random inputs of x of 4, ids of 5 (integers from 0 to 8)" in found.network.statement
    described = collegium.describe(model, without)
    found = find_ensemble(described, model=model, example_input=example, network=asked, space={"widths": [4]})
    assert "inputs of the data, x of 4, ids of 5, scale of one number" in found.network.statement
    assert "of the output 'hidden'" in found.network.statement
    measured, subject = kernel(model, example, described, output="other", images=3)
    assert (subject.outputs, subject.reading) == (2, " of the output 'other'")
    own = {"x": example["x"][:1], "ids": example["ids"][:1], "scale": example["scale"]}
    assert measured.draw(3, [0]).item() == pytest.approx(
        by_hand(model, lambda made: made(**own)["other"][0, 0], None, example, output="other", images=3), rel=1e-5
    )
    refused = [
        ({"output": "loss"}, r"network\.output: no tensor of numbers is called 'loss'.* loss, hidden, other"),
        ({"output": "none"}, "no tensor of numbers is called 'none'"),
        ({"output": 7}, "no tensor of numbers is called 7"),
    ]
    for network, message in refused:
        with pytest.raises(InvalidSpec, match=message):
            kernel(model, example, described, **network)
    described, wrong = collegium.describe(alone, without), without | {"ids": torch.zeros(3, 4, dtype=torch.long)}
    with pytest.raises(InvalidSpec, match=re.escape("samples of 'ids' have the shape (4,); (5,) was described")):
        batch_of(wrong, described, alone, SearchSpec.model_validate({"baseline": described}))


class Contained(nn.Module):
    """A container of tensors in, and a named tuple out, of which the whole numbers are no logits."""

    Both = namedtuple("Both", ["places", "logits"])

    def __init__(self, alone=False):
        super().__init__()
        self.alone, self.mlp = alone, nn.Sequential(nn.ReLU(inplace=True), gaussian_mlp((4, 6, 6, 2)))

    def forward(self, given):
        found = self.mlp(given["x"] + given["y"]) if self.alone else self.mlp(given["x"])
        return found if self.alone else self.Both(found.argmax(1), found)


def test_containers_are_given_as_the_module_takes_them():
    torch.manual_seed(0)
    model, x = Contained(), torch.randn(2, 4)
    described = collegium.describe(model, ({"x": x},))
    before = x.clone()
    measured, subject = kernel(model, ({"x": x},), described, images=2)
    assert (subject.reading, subject.call.names) == (" of the output 'logits'", ("0.x",))
    first = measured.draw(3, [0])
    assert (measured.draw(3, [0]) == first).all()  # though the module writes into its input
    assert torch.equal(x, before)


def test_a_container_cannot_be_filled_without_an_example():
    model, x = Contained(alone=True), torch.randn(2, 4)
    described = collegium.describe(model, {"given": {"x": x, "y": torch.randn(2, 4)}})
    assert described.graph is not None
    spec = SearchSpec.model_validate({"baseline": described})
    with pytest.raises(InvalidSpec, match=r"example_input: how the module takes 'given_x' is not in its description"):
        batch_of(None, described, model, spec)


def test_an_output_of_another_batch_is_refused():
    class Turned(nn.Module):
        def __init__(self):
            super().__init__()
            self.mlp = gaussian_mlp((4, 6, 6, 5))

        def forward(self, x):
            return self.mlp(x).T

    model, x = Turned(), torch.randn(3, 4)
    with pytest.raises(InvalidSpec, match=r"network\.output: .*shape \(5, 2\), whose first axis"):
        kernel(model, x, images=3)

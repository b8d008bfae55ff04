"""Kernel points: what makes two of them the same."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from collegium.search.kernel.inputs import Gram, KernelInputs, correlation_gram
from collegium.search.kernel.point import KernelPoint
from collegium.search.networks.chain import Chain, Free
from collegium.search.spec import PairSpec


def test_points_survive_json(bottleneck):
    inputs = KernelInputs(gram=Gram(np.eye(9)), pair=PairSpec(cosine=0.5))
    point = KernelPoint.of(bottleneck, (8,), "unit", inputs)
    again = KernelPoint.model_validate(json.loads(json.dumps(point.model_dump(mode="json"))))
    assert again == point
    assert again.key == point.key
    assert KernelPoint.model_validate_json(point.model_dump_json()) == point


def test_the_key_depends_on_everything_that_the_moments_depend_on(bottleneck):
    white = Gram(2 * np.eye(9))
    points = [
        KernelPoint.of(bottleneck, widths, entry, inputs)
        for widths, entry, inputs in [
            ((8,), "unit", KernelInputs()),
            ((9,), "unit", KernelInputs()),
            ((8,), "pooled", KernelInputs()),
            ((8,), "unit", KernelInputs(correlation=0.5)),
            ((8,), "unit", KernelInputs(gram=white)),
            ((8,), "unit", KernelInputs(pair=PairSpec(cosine=0.5))),
        ]
    ]
    assert len({point.key for point in points}) == len(points)


def test_the_key_does_not_depend_on_names_or_idle_inputs(mlp):
    chain = mlp(2)
    renamed = Chain(chain.channels, 1, 1, chain.layers, ("a", "b"))
    fixed = chain.at((4, 8))
    default = KernelPoint.of(chain, (4, 8), "unit", KernelInputs())
    assert KernelPoint.of(renamed, (4, 8), "unit", KernelInputs()).key == default.key
    assert KernelPoint.of(fixed, (), "unit", KernelInputs()).key == default.key
    # with one input position there is nothing to correlate, and a pair of equal inputs is no pair
    inputs = KernelInputs(correlation=0.2, pair=PairSpec(cosine=1.0))
    assert KernelPoint.of(chain, (4, 8), "unit", inputs) == default


def test_default_and_explicit_correlation_are_the_same(bottleneck):
    explicit = KernelPoint.of(bottleneck, (8,), "unit", KernelInputs(correlation=0.95))
    assert explicit.key == KernelPoint.of(bottleneck, (8,), "unit", KernelInputs()).key


def test_the_gram_matrix_is_the_given_one_or_that_of_the_correlation(bottleneck):
    point = KernelPoint.of(bottleneck, (8,), "unit", KernelInputs(correlation=0.3))
    assert np.array_equal(point.gram_matrix(), correlation_gram(0.3, 3, 3))
    given = KernelInputs(gram=Gram(np.eye(9)))
    assert np.array_equal(KernelPoint.of(bottleneck, (8,), "unit", given).gram_matrix(), np.eye(9))


def test_resolved_chains_have_no_free_width(bottleneck):
    point = KernelPoint.of(bottleneck, (8,), "unit", KernelInputs())
    assert not any(isinstance(layer.out, Free) for layer in point.resolved.layers)


def test_widths_and_matrices_that_do_not_fit_are_refused(bottleneck):
    with pytest.raises(ValueError, match="expected 1 width "):
        KernelPoint.of(bottleneck, (8, 8), "unit", KernelInputs())
    with pytest.raises(ValueError, match="sees 9 input positions"):
        KernelPoint.of(bottleneck, (8,), "unit", KernelInputs(gram=Gram([[1.0]])))


def test_biases_make_another_point_and_the_inputs_size_then_does_too(mlp):
    plain, biased = mlp(2), replace(mlp(2), bias=True)
    keys = {
        KernelPoint.of(chain, (4, 8), "unit", inputs).key
        for chain in (plain, biased)
        for inputs in (KernelInputs(), KernelInputs(gram=Gram([[4.0]])))
    }
    assert len(keys) == 4
    point = KernelPoint.of(biased, (4, 8), "unit", KernelInputs())
    assert KernelPoint.model_validate(point.model_dump(mode="json")) == point
    stored = KernelPoint.of(plain, (4, 8), "unit", KernelInputs()).model_dump(mode="json")
    del stored["chain"]["bias"]  # as it was written before chains had biases
    assert KernelPoint.model_validate(stored).key == KernelPoint.of(plain, (4, 8), "unit", KernelInputs()).key

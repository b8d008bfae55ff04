"""Into how many members of which width should a fully connected network be split? Answered without training."""

import collegium

baseline = {"family": "mlp", "inputs": 784, "hidden": [200] * 5, "outputs": 10}
answer = collegium.find_ensemble(baseline)

print(answer.outcome.message)
for name, found in (("primal", answer.primal), ("dual", answer.dual)):
    assert found is not None, answer.outcome.remedy
    share = found.relative_variance
    ensemble = f"{found.multiplicity:3} × {found.width:<4}"
    print(f"{name:8}{ensemble}{found.parameters:>10,} parameters, variance × {share:.2f}")

# Any width vector may be better than a tied width.
vector = collegium.find_ensemble(baseline, space={"mode": "vector"}).primal
assert vector is not None
print(f"vector  {vector.multiplicity:3} × {vector.widths}")

# Other activations than ReLU are sampled, here to 3 % of ln r.
smooth = collegium.find_ensemble(baseline | {"activation": "gelu"}, estimator={"relative_error": 0.03})
assert smooth.primal is not None
assert smooth.confidence is not None
span = f"n* from {smooth.confidence.low} to {smooth.confidence.high}"
print(f"GELU    {smooth.primal.multiplicity:3} × {smooth.primal.width}, {span}")

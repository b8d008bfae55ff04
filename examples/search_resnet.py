"""ResNet-50, split into members that cost as many FLOPs, for inputs as smooth as natural images and for white noise."""

import collegium

answer = collegium.find_ensemble("resnet50", efficiency="flops")
print(answer.outcome.message)

band = answer.near_optimal
assert band is not None
print(f"within {100 * band.tolerance:.1f} % of the optimum: widths {band.min_width} to {band.max_width}")
print(f"recommended: {band.recommended.width} ({band.recommended.reason})")

for row in answer.correlations:
    primal = "none" if row.widths is None else f"{row.primal_multiplicity} × {row.width}"
    print(f"correlation {row.correlation:4.2f}: {primal}")

assert answer.check is not None
print(f"the closed form and {answer.samples:,} samples agree: {answer.check.agrees}")

"""Does the ensemble train better than its baseline? Both, with and without majority kernels, over seeds."""

import collegium

baseline = {"family": "mlp", "inputs": 64, "hidden": [100, 100, 100], "outputs": 10}
primal = collegium.find_ensemble(baseline).primal
assert primal is not None
ensemble = {"baseline": baseline, **primal.grouping}

if __name__ == "__main__":  # the processes of a study import this file
    study = collegium.run_study(
        {
            "architectures": [
                {"name": "baseline", "architecture": {"baseline": baseline}},
                {"name": "primal", "architecture": ensemble},
            ],
            "methods": ["vanilla", "majority"],
            "recipes": [{"name": "short", "recipe": {"epochs": 5}}],
            "data": "digits",
            "seeds": 2,
        },
        folder="study",
        processes=2,
    )
    for cell in study.cells:
        print(f"{cell.architecture:10}{cell.method:10}{cell.test_accuracy:.3f} ± {cell.test_accuracy_error:.3f}")

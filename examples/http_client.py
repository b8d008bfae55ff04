"""A service finds an ensemble, trains it, and hands over the checkpoint: `collegium serve`, then run this."""

import sys

import collegium

url = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8321"
with collegium.Client(url) as client:
    search = client.search({"family": "mlp", "inputs": 64, "hidden": [100, 100, 100], "outputs": 10})
    print(search.wait().result.outcome.message)

    training = client.train(
        {
            "architecture": {"search": search.id, "choice": "primal"},
            "method": "majority",
            "expansion": 3,
            "data": "digits",
            "recipe": {"epochs": 5},
        }
    )
    training.wait(on_event=lambda event: print(event.type, event.data.get("message", "")))
    assert training.status == "succeeded", training.failure
    print(f"test accuracy {training.result.accuracy.test:.3f}")
    for path in training.download("checkpoint"):
        print(path)

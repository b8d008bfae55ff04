"""Majority kernels under the libraries themselves: PEFT, torch-ema, Accelerate, Lightning and transformers' Trainer.

    pip install peft torch-ema accelerate lightning
    python benchmarks/libraries.py [--only peft …]

The tests imitate what these do to a model; this does it. Of every use: evaluation equals the plain network with the
means of what is stored, ``collapse`` equals evaluation, p changes with each step of the optimizer and not between,
and a training that is saved and loaded ends in the weights of a whole one, bit for bit.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from collegium import collapse, expand, fuse, majority_kernels

INPUTS, BATCH = 6, 5
X = torch.randn(4, INPUTS, generator=torch.Generator().manual_seed(99))


class Network(nn.Module):
    """An encoder and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(INPUTS, 8), nn.Tanh(), nn.Linear(8, 8))
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.encoder(x)))


def network() -> nn.Module:
    torch.manual_seed(0)
    return Network()


def batch(step: int) -> Tensor:
    return torch.randn(BATCH, INPUTS, generator=torch.Generator().manual_seed(step))


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    model.train()
    for step in steps:
        optimizer.zero_grad()
        model(batch(step)).square().mean().backward()
        optimizer.step()


def step_of(model: nn.Module) -> int:
    return next(iter(majority_kernels(model).values())).clock.step


def outputs(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return model.eval()(X)


def means(model: nn.Module) -> nn.Module:
    """The plain network with the means of what ``model`` stores."""
    plain, state = network(), {}
    for name, value in model.state_dict().items():
        if name.endswith(".original"):
            state[name.replace("parametrizations.", "").removesuffix(".original")] = value.mean(0)
        elif not name.endswith("_extra_state"):
            state[name] = value
    plain.load_state_dict(state)
    return plain


def close(one: Tensor, other: Tensor) -> None:
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def same(one: nn.Module, other: nn.Module) -> None:
    for mine, theirs in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def check(model: nn.Module) -> None:
    expected = outputs(means(model))
    close(outputs(model), expected)
    close(outputs(collapse(model)), expected)


def torch_ema(fused: bool, _: Path) -> None:
    """Averages are swapped in and out, evaluated and collapsed."""
    from torch_ema import ExponentialMovingAverage  # pyright: ignore[reportMissingImports]

    model = expand(network(), 3, seed=1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    fuse(optimizer, model) if fused else None
    average = ExponentialMovingAverage(model.parameters(), decay=0.7)
    for step in range(4):
        train(model, optimizer, range(step, step + 1))
        average.update()
    raw = outputs(model)
    with average.average_parameters():
        close(outputs(model), outputs(means(model)))
        assert not torch.allclose(outputs(model), raw)
    close(outputs(model), raw)
    average.copy_to()
    train(model, optimizer, range(4, 5))
    check(model)


def _adapted(**options: Any) -> nn.Module:
    from peft import LoraConfig, get_peft_model  # pyright: ignore[reportMissingImports]

    config = LoraConfig(r=2, target_modules=["encoder.0", "encoder.2"], modules_to_save=["head"], **options)
    return get_peft_model(network(), config)  # type: ignore[arg-type]


def peft(fused: bool, folder: Path) -> None:
    """Adapters and a trained head with copies: collapsed and merged, merged and collapsed, in either mode; saved."""
    from peft import PeftModel  # pyright: ignore[reportMissingImports]

    for mode in (True, False):
        model = expand(_adapted(), 3, seed=1)
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.Adam(trained, lr=0.05)
        fuse(optimizer, model) if fused else None
        train(model, optimizer, range(3))
        expected, twin = outputs(model), copy.deepcopy(model)
        merged: Any = twin.train(mode)
        close(outputs(collapse(merged.merge_and_unload())), expected)
        model.train(mode).merge_adapter()  # type: ignore[operator]
        close(outputs(model), expected)
        model.train(mode).unmerge_adapter()  # type: ignore[operator]
        collapse(model).save_pretrained(folder / str(mode))  # type: ignore[operator]
        close(outputs(PeftModel.from_pretrained(network(), folder / str(mode))), expected)


def accelerate(fused: bool, folder: Path) -> None:
    """Accumulation, clipping, and a saved state that goes on."""
    from accelerate import Accelerator  # pyright: ignore[reportMissingImports]
    from accelerate.state import AcceleratorState  # pyright: ignore[reportMissingImports]

    def prepared() -> tuple[Any, ...]:
        AcceleratorState._reset_state(True)
        accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
        model = expand(network(), 3, seed=1)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
        fuse(optimizer, model) if fused else None
        return accelerator, *accelerator.prepare(model, optimizer)

    def go_on(accelerator: Any, model: Any, optimizer: Any, steps: range) -> None:
        model.train()
        for step in steps:
            with accelerator.accumulate(model):
                accelerator.backward(model(batch(step)).square().mean())
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.parameters(), 0.1)
                optimizer.step()
                optimizer.zero_grad()

    accelerator, model, optimizer = prepared()
    go_on(accelerator, model, optimizer, range(4))
    assert step_of(model) == 2
    accelerator.save_state(folder)
    go_on(accelerator, model, optimizer, range(4, 8))
    accelerator, resumed, optimizer = prepared()
    accelerator.load_state(folder)
    go_on(accelerator, resumed, optimizer, range(4, 8))
    same(model, resumed)
    check(accelerator.unwrap_model(resumed))


def lightning(fused: bool, folder: Path) -> None:
    """Its loop with accumulation, clipping and a checkpoint; its averages of weights."""
    import lightning as library  # pyright: ignore[reportMissingImports]
    from lightning.pytorch.callbacks import (  # pyright: ignore[reportMissingImports]
        EMAWeightAveraging,
        StochasticWeightAveraging,
    )

    class Module(library.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network = expand(network(), 3, seed=1)

        def training_step(self, rows: list[Tensor], index: int) -> Tensor:
            return self.network(rows[0]).square().mean()

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.Adam(self.parameters(), lr=0.05)
            return fuse(optimizer, self) if fused else optimizer

    rows = torch.utils.data.TensorDataset(torch.cat([batch(step) for step in range(4)]))

    def fit(epochs: int, callbacks: tuple[Any, ...] = (), start: Path | None = None) -> Any:
        quiet = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
        options: dict[str, Any] = dict.fromkeys(quiet, False)
        if not callbacks:
            options |= {"accumulate_grad_batches": 2, "gradient_clip_val": 0.1}
        trainer = library.Trainer(
            max_epochs=epochs, accelerator="cpu", callbacks=list(callbacks), default_root_dir=folder, **options
        )
        module = Module()
        trainer.fit(module, torch.utils.data.DataLoader(rows, batch_size=BATCH), ckpt_path=start)
        return trainer, module

    trainer, first = fit(2)
    assert step_of(first) == 4
    trainer.save_checkpoint(folder / "state.ckpt")
    resumed = fit(4, start=folder / "state.ckpt")[1]
    same(fit(4)[1], resumed)
    check(resumed.network)
    for callback in (EMAWeightAveraging(decay=0.7), StochasticWeightAveraging(0.05, swa_epoch_start=1)):
        check(fit(3, (callback,))[1].network)


def trainer(fused: bool, folder: Path) -> None:
    """transformers' Trainer: accumulation, gradient checkpointing, a checkpoint, ``save_pretrained``."""
    import transformers

    transformers.utils.logging.set_verbosity_error()
    sizes: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "num_labels": 3}
    config = transformers.BertConfig(**sizes, intermediate_size=16, vocab_size=20, max_position_embeddings=16)
    tokens = torch.randint(20, (24, 8), generator=torch.Generator().manual_seed(0))
    rows = [{"input_ids": row, "labels": torch.tensor(index % 3)} for index, row in enumerate(tokens)]

    def fit(start: str | None = None) -> Any:
        torch.manual_seed(0)
        model = expand(transformers.AutoModelForSequenceClassification.from_config(config), 3, seed=1)
        arguments = transformers.TrainingArguments(
            str(folder), max_steps=4, per_device_train_batch_size=4, gradient_accumulation_steps=2, use_cpu=True,
            report_to=[], save_steps=2, learning_rate=1e-2, gradient_checkpointing=not fused, disable_tqdm=True,
        )  # fmt: skip
        optimizer = fuse(torch.optim.AdamW(model.parameters(), lr=1e-2), model) if fused else None
        given: Any = {"train_dataset": rows, "optimizers": (optimizer, None)}
        transformers.Trainer(model, arguments, **given).train(resume_from_checkpoint=start)
        return model

    whole = fit()
    assert step_of(whole) == 4
    resumed = fit(str(folder / "checkpoint-2"))
    same(whole, resumed)
    with torch.no_grad():
        expected = resumed.eval()(tokens).logits
        close(collapse(resumed)(tokens).logits, expected)
        resumed.save_pretrained(folder / "saved")
        loaded = transformers.AutoModelForSequenceClassification.from_pretrained(folder / "saved")
        close(loaded.eval()(tokens).logits, expected)


USES: dict[str, Callable[[bool, Path], None]] = {
    "torch-ema": torch_ema,
    "peft": peft,
    "accelerate": accelerate,
    "lightning": lightning,
    "trainer": trainer,
}


def results(names: list[str]) -> Iterator[tuple[str, str]]:
    """Each use, without and with ``fuse``, and what was found."""
    for name in names:
        for fused in (False, True):
            with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    USES[name](fused, Path(folder))
                    found = "right"
                except ImportError as error:
                    found = f"not installed: {error.name}"
                except (AssertionError, RuntimeError, ValueError, TypeError) as error:
                    found = f"WRONG: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
            yield name + (", fused" if fused else ""), found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=list(USES), default=list(USES))
    wrong = False
    for name, found in results(parser.parse_args().only):
        print(f"{name:22}{found}", flush=True)
        wrong |= found.startswith("WRONG")
    raise SystemExit(wrong)


if __name__ == "__main__":
    main()

"""``collegium search`` and ``collegium presets``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from collegium.app.cli.connection import AsJson, Key, connect, follow_job, progress_bar, report_end
from collegium.app.cli.errors import CANCELLED, FAILED, OF_STATUS, USAGE, Stop, err, exit_with_status, out
from collegium.app.cli.specs import put, put_input, read_object, validated
from collegium.app.cli.tables.jobs import failure_text
from collegium.app.cli.tables.search import search_table
from collegium.app.local.job import LocalFailure, compute
from collegium.app.settings import load_settings
from collegium.search.networks.activation import PostedName
from collegium.search.networks.build import validate_search
from collegium.search.networks.families.network import NetworkBaseline
from collegium.search.networks.presets import PRESETS
from collegium.search.spec import SearchSpec


@exit_with_status
def search(
    source: Annotated[
        str, typer.Argument(metavar="SPEC|PRESET|-", help="A JSON file, a preset's name, or - for standard input.")
    ],
    server: Annotated[str | None, typer.Option("--server", help="Compute at this service, not here.")] = None,
    key: Key = None,
    as_json: AsJson = False,
    plot: Annotated[
        Path | None, typer.Option("--plot", metavar="FILE", help="Write the figure here, as .svg or .png.")
    ] = None,
    shape: Annotated[
        str | None, typer.Option("--input", metavar="CxHxW", help="Samples of a preset, in place of its own.")
    ] = None,
    activation: Annotated[PostedName | None, typer.Option(help="Of an MLP, in place of its own.")] = None,
    method: Annotated[Literal["auto", "exact", "monte_carlo", "given"] | None, typer.Option(help="Estimator.")] = None,
    alpha: Annotated[float | None, typer.Option(help="The α of method `given`.")] = None,
    relative_error: Annotated[float | None, typer.Option(help="Asked relative error of ln r.")] = None,
    correlation: Annotated[float | None, typer.Option(help="Of neighbouring input positions, 0 to 1.")] = None,
    efficiency: Annotated[
        Literal["parameters", "flops", "latency", "memory"] | None, typer.Option(help="What is to be saved.")
    ] = None,
    max_latency_ms: Annotated[float | None, typer.Option(help="Most milliseconds of a batch.")] = None,
    max_memory_bytes: Annotated[int | None, typer.Option(help="Most bytes of memory of a batch.")] = None,
    workload: Annotated[
        Literal["inference", "training"] | None, typer.Option(help="Measure the time of this, and count its memory.")
    ] = None,
    batch_size: Annotated[int | None, typer.Option(help="Of the workload.")] = None,
    image_size: Annotated[int | None, typer.Option(help="Of the workload's square images.")] = None,
    precision: Annotated[Literal["fp32", "tf32", "bf16"] | None, typer.Option(help="Of the workload.")] = None,
    threads: Annotated[int | None, typer.Option(help="Of the workload, on a processor.")] = None,
    channels_last: Annotated[bool, typer.Option("--channels-last", help="Images of the workload.")] = False,
    space: Annotated[
        Literal["scaled", "vector"] | None, typer.Option(help="One ratio for all widths, or each its own.")
    ] = None,
    stages: Annotated[
        Literal["tied", "own"] | None, typer.Option(help="One m × n for all stages, or each stage its own.")
    ] = None,
    budget: Annotated[
        int | None, typer.Option(help="What the primal may cost, in place of the baseline's cost.")
    ] = None,
    max_parameters: Annotated[int | None, typer.Option(help="Hard limit of both answers.")] = None,
    max_flops: Annotated[int | None, typer.Option(help="Hard limit of both answers.")] = None,
    max_multiplicity: Annotated[int | None, typer.Option(help="Most members.")] = None,
    multiple_of: Annotated[int | None, typer.Option(help="What every width is a multiple of.")] = None,
    tolerance: Annotated[float | None, typer.Option(help="How near the optimum the band is: 0.025 is 2.5 %.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the sampling.")] = None,
    verify: Annotated[bool, typer.Option("--verify", help="Build the ensembles and measure their kernels.")] = False,
    verify_network: Annotated[
        bool, typer.Option("--verify-network", help="Measure the kernels of the whole networks: up to ten minutes.")
    ] = False,
) -> None:
    """Search the m × n grouping whose kernel has the smallest variance.

    Computes on this machine, or with --server at a service. The options override fields of the specification.

    Examples: collegium search resnet50; collegium search mlp-mnist-6x500 --space vector --plot figure.svg;
    collegium search mlp-mnist-6x500 --activation gelu; collegium search torchvision:vgg16 --input 3x32x32;
    echo '{"baseline": {"family": "mlp", "inputs": 64, "hidden": [100, 100, 100]}}' | collegium search -
    """
    document = _document(source)
    put_input(document, shape)
    if activation is not None:
        _activate(document, activation)
    for path, value in {
        "estimator.method": method or ("given" if alpha is not None else None),
        "estimator.alpha": alpha,
        "estimator.relative_error": relative_error,
        "estimator.seed": seed,
        "inputs.correlation": correlation,
        "efficiency": efficiency,
        "max_latency_ms": max_latency_ms,
        "max_memory_bytes": max_memory_bytes,
        "workload.mode": workload,
        "workload.batch_size": batch_size,
        "workload.image_size": image_size,
        "workload.precision": precision,
        "workload.threads": threads,
        "workload.channels_last": channels_last or None,
        "space.mode": space,
        "space.stages": stages,
        "space.max_multiplicity": max_multiplicity,
        "space.multiple_of": multiple_of,
        "budget": budget,
        "max_parameters": max_parameters,
        "max_flops": max_flops,
        "tolerance": tolerance,
        "verify": "network" if verify_network else verify or None,
    }.items():
        put(document, path, value)
    if plot is not None and plot.suffix not in (".svg", ".png"):
        raise Stop(USAGE, f"--plot {plot}: name a file that ends in .svg or .png")
    spec = validated(document, SearchSpec, validate_search)
    result = _here(spec, as_json) if server is None else _there(document, server, key, as_json)
    if plot is not None:
        _write_plot(result, plot)
    if as_json:
        print(json.dumps(result, indent=2))
    else:
        out.print(search_table(result))
        if plot is not None:
            out.print(f"\n[dim]figure in {plot}[/]", soft_wrap=True)


@exit_with_status
def presets(
    name: Annotated[str | None, typer.Argument(help="Print this one as a whole.")] = None, as_json: AsJson = False
) -> None:
    """List the named architectures, or print one of them."""
    from collegium.app.cli.tables.formatting import count, grid
    from collegium.search.networks.build import describe_preset, list_presets

    if name is not None:
        if name not in PRESETS:
            raise Stop(USAGE, f"no preset is called {name!r}", "`collegium presets` lists the presets")
        if as_json or not isinstance(PRESETS[name][0], NetworkBaseline):
            print(json.dumps(describe_preset(name), indent=None if as_json else 2))
        else:
            print(PRESETS[name][0])
        return
    rows = list_presets()
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    table = grid("preset", "", "parameters", "FLOPs", left=2)
    for row in rows:
        table.add_row(row["name"], row["about"], count(row["parameters"]), count(row["flops"]))
    out.print(table)


def _document(source: str) -> dict[str, Any]:
    if source in PRESETS and not Path(source).is_file():
        return {"baseline": {"preset": source}}
    if source != "-" and not Path(source).is_file():
        raise Stop(USAGE, f"{source!r} is neither a file nor a preset", "`collegium presets` lists the presets")
    return read_object(source)


def _activate(document: dict[str, Any], activation: str) -> None:
    """Give the baseline an activation; that of a preset is written out for it."""
    baseline = document.get("baseline")
    if isinstance(baseline, dict) and baseline.get("preset") in PRESETS:
        document["baseline"] = PRESETS[baseline["preset"]][0].model_dump(mode="json", exclude_unset=True)
    put(document, "baseline.activation", activation)


def _here(spec: SearchSpec, quiet: bool) -> dict[str, Any]:
    settings = load_settings()
    with progress_bar("search", quiet) as report:
        try:
            return compute("search", spec.model_dump(mode="json"), settings, report)
        except LocalFailure as failure:
            found = failure
    err.print(failure_text(vars(found)))
    raise typer.Exit(CANCELLED if found.kind == "cancelled" else FAILED)


def _there(document: dict[str, Any], server: str, key: str | None, quiet: bool) -> dict[str, Any]:
    with connect(server, key) as client:
        job = follow_job(client, client.submit("search", document), quiet)
    if job["status"] != "succeeded":
        report_end(job)
        raise typer.Exit(OF_STATUS[job["status"]])
    return job["result"]


def _write_plot(result: dict[str, Any], path: Path) -> None:
    from collegium.search.plot import plot as drawn
    from collegium.search.result import SearchResult

    answer = SearchResult.model_validate_json(json.dumps(result))
    try:
        path.write_bytes(drawn(answer, "svg" if path.suffix == ".svg" else "png"))
    except OSError as error:
        raise Stop(USAGE, f"--plot {path}: {error.strerror}") from error

"""The real jobs: searches, their parts, trainings and studies, as a worker runs them."""

import json
import os
import signal
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

import collegium.train.engine
from collegium.jobs.record import KINDS, QUEUE_OF
from collegium.jobs.subprocesses import environment, python
from collegium.search import engine
from collegium.search.errors import InvalidSpec
from collegium.search.sampling import local
from collegium.search.sampling.local import compute_here
from collegium.search.spec import SearchSpec
from collegium.train.errors import DataError
from collegium.train.models.grouping import architecture_from_search
from collegium.train.spec.architecture import SearchedArchitecture
from collegium.train.spec.training import TrainingSpec
from collegium.worker.compute import handlers
from collegium.worker.compute.context import Cancelled
from collegium.worker.failures import JobRejected, from_exception
from collegium.worker.settings import WorkerSettings

BLOCK = {
    "family": "block",
    "input": {"channels": 8, "height": 3, "width": 3},
    "layers": [
        {"type": "conv", "out": "n", "kernel": 1}, {"type": "relu"},
        {"type": "conv", "out": "n", "kernel": 3}, {"type": "relu"},
        {"type": "conv", "out": 8, "kernel": 1},
    ],
    "widths": {"n": 16},
}  # fmt: skip
SAMPLED = {"baseline": BLOCK, "estimator": {"method": "monte_carlo", "samples": 3000, "entry": "pooled"}}
TRAINING = {
    "architecture": {
        "baseline": {"family": "mlp", "inputs": 64, "hidden": [32, 32], "outputs": 10},
        "width": 16,
        "multiplicity": 2,
    },
    "data": "digits",
    "recipe": {"epochs": 6, "batch_size": 64},
}


@dataclass
class FakeContext:
    """A context without a supervisor; children are run at once, as JSON."""

    artifact_dir: Path
    divides: bool = True
    device: str = "cpu"
    data_dir: Path = Path("/nowhere")
    datasets_dir: Path = Path("/nowhere")
    children: list = field(default_factory=list)
    messages: list = field(default_factory=list)
    cancelled: bool = False

    def check(self):
        if self.cancelled:
            raise Cancelled

    def report(self, fraction, message=""):
        self.check()
        self.messages.append((fraction, message))

    def settle(self):
        self.check()

    def get_estimate(self, key):
        return None

    def put_estimate(self, key, value):
        json.dumps(value)

    def fan_out(self, children, progress=None):
        self.children += children
        outcomes = []
        for child in json.loads(json.dumps(children)):
            result = handlers.shard(child["spec"], self)
            outcomes.append({"id": "x", "key": child["key"], "status": "succeeded", "result": result, "failure": None})
            progress(len(outcomes), len(children))
        return outcomes


@pytest.fixture
def context(tmp_path):
    return FakeContext(tmp_path)


@pytest.fixture
def dividing(monkeypatch):
    monkeypatch.setattr(handlers, "DIVIDED_SECONDS", 0.0)
    monkeypatch.setattr(handlers, "PART_SECONDS", 1e-4)


def without_times(result):
    return {name: value for name, value in result.items() if name not in {"seconds", "versions"}}


def test_a_search_is_answered_and_plotted(context):
    result = handlers.search({"baseline": {"preset": "resnet50"}}, context)
    assert result["primal"]["multiplicity"] == 12
    assert context.messages[-1][0] == 1.0
    assert b"<svg" in (context.artifact_dir / "plot.svg").read_bytes()[:500]
    assert not context.children


def test_a_divided_search_has_the_same_answer(context, dividing):
    divided = handlers.search(SAMPLED, context)
    assert len(context.children) > 3
    assert len({child["key"] for child in context.children}) == len(context.children)
    told = [fraction for fraction, message in context.messages if "parts by all workers" in message]
    assert len(set(told)) > 3
    assert told == sorted(told)
    whole = engine.run(SearchSpec.model_validate_json(json.dumps(SAMPLED))).model_dump(mode="json")
    assert without_times(divided) == without_times(json.loads(json.dumps(whole)))


def test_parts_are_the_same_in_a_second_attempt(context, dividing, tmp_path):
    handlers.search(SAMPLED, context)
    again = FakeContext(tmp_path)
    handlers.search(SAMPLED, again)
    assert [child["key"] for child in again.children] == [child["key"] for child in context.children]


def test_little_work_is_not_divided(context):
    handlers.search(SAMPLED, context)
    assert not context.children


def test_a_gpu_computes_all_parts_itself(context, dividing, monkeypatch):
    monkeypatch.setattr(local, "compute_here", lambda device: devices.append(device) or compute_here("cpu"))
    devices, context.device = [], "cuda"
    handlers.search(SAMPLED, context)
    assert not context.children
    assert set(devices) == {"cuda"}


def test_a_part_that_fails_fails_the_search_for_its_reason(context, dividing):
    def fail(children, progress=None):
        failure = {"kind": "out_of_memory", "message": "no room", "remedy": "buy some", "log_tail": ""}
        return [{"id": "x", "status": "failed", "result": None, "failure": failure} for _ in children]

    context.fan_out = fail
    with pytest.raises(JobRejected, match="no room") as caught:
        handlers.search(SAMPLED, context)
    assert (caught.value.kind, caught.value.remedy) == ("out_of_memory", "buy some")


def test_a_part_that_was_cancelled_fails_the_search(context, dividing):
    context.fan_out = lambda children, progress=None: [
        {"id": "x", "status": "cancelled", "result": None, "failure": None} for _ in children
    ]
    with pytest.raises(JobRejected, match="cancelled"):
        handlers.search(SAMPLED, context)


def test_sampling_can_be_cancelled(context):
    context.cancelled = True
    with pytest.raises(Cancelled):
        handlers.search(SAMPLED, context)


def test_a_wrong_spec_is_refused_as_when_it_is_posted(context):
    with pytest.raises(InvalidSpec) as caught:
        handlers.search({"baseline": {"preset": "resnet50"}, "tolerance": "0.1"}, context)
    assert caught.value.path == ("tolerance",)
    assert from_exception(caught.value).kind == "invalid_spec"


def test_the_inputs_of_a_search_may_be_a_data_set(context):
    spec = {"baseline": BLOCK | {"input": {"channels": 1, "height": 8, "width": 8}}, "inputs": {"data": "digits"}}
    assert handlers.search(spec, context)["primal"] is not None


@pytest.mark.parametrize("name", ["cifar10", "no-such-data"])
def test_missing_data_are_a_user_error(context, name):
    with pytest.raises(DataError) as caught:
        handlers.search({"baseline": {"preset": "resnet50"}, "inputs": {"data": name}}, context)
    cause = from_exception(caught.value)
    assert cause.kind == "user_error"
    assert cause.advice


def test_data_that_are_no_images_are_refused(context):
    with pytest.raises(JobRejected, match="not images"):
        handlers.search({"baseline": {"preset": "resnet50"}, "inputs": {"data": "synthetic"}}, context)


def test_every_kind_of_job_has_a_handler_a_queue_and_a_time_limit():
    assert set(handlers.load_handlers()) == set(KINDS) == set(QUEUE_OF)
    assert all(WorkerSettings(home="/nowhere").timeout_s(kind) > 0 for kind in KINDS)


def test_handlers_can_be_replaced(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text("SOME = {'training': print}\nOTHER = {'poem': print}\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert handlers.load_handlers("mine:SOME") == handlers.load_handlers() | {"training": print}
    with pytest.raises(ValueError, match="poem; there are jobs of search, shard"):
        handlers.load_handlers("mine:OTHER")
    with pytest.raises(ImportError):
        handlers.load_handlers("not_there:SOME")


@pytest.fixture
def one_thread():
    """As many as the slots of these runners give, since sums depend on how they are divided."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.slow
def test_a_training_that_is_killed_ends_in_the_same_weights(client, make_runner, context, one_thread):
    """On a search's answer: once without interruption here, once killed in a worker and taken up again."""
    asked = {"baseline": TRAINING["architecture"]["baseline"]}
    searched = SearchedArchitecture(search="s", choice="primal")
    architecture = architecture_from_search(searched, asked, handlers.search(asked, context)).model_dump(mode="json")
    spec = TRAINING | {"architecture": architecture, "recipe": {"epochs": 30}}
    whole = collegium.train.engine.run(
        TrainingSpec.model_validate_json(json.dumps(spec)), artifact_dir=context.artifact_dir
    )
    runner = make_runner(preload="torch", extra_handlers="", heartbeat_s=0.5, lease_s=10.0)
    cut = client.store.create("training", spec, queue="train")[0]
    measured = lambda: any(event.type == "metric" for event in client.store.events(cut.id))  # noqa: E731
    client.wait_until(measured, "an epoch is measured", 90)
    for attempt in list(runner._attempts):
        os.killpg(attempt._process.pid, signal.SIGKILL)
    ended = client.ended(cut, 90)
    assert (ended.status, ended.attempt) == ("succeeded", 2), ended.failure
    assert client.files(cut)["model.safetensors"] == (context.artifact_dir / "model.safetensors").read_bytes()
    assert ended.result["accuracy"] == json.loads(json.dumps(whole))["accuracy"]


@pytest.mark.slow
def test_a_study_fans_out_over_its_trainings(client, make_runner):
    make_runner(preload="torch,collegium.train.engine", extra_handlers="", lease_s=10.0, heartbeat_s=0.5)
    single = {"name": "single", "architecture": {"baseline": TRAINING["architecture"]["baseline"]}}
    spec = {
        "architectures": [single],
        "data": "digits",
        "seeds": 2,
        "recipes": [{"name": "short", "recipe": {"epochs": 1}}],
    }
    study = client.store.create("study", spec, queue="train")[0]
    ended = client.ended(study, 120)
    assert ended.status == "succeeded", ended.failure
    assert ended.result["failed"] == 0
    children = client.store.children(study.id)
    assert [child.kind for child in children] == ["training", "training"]
    assert any(name.endswith(".csv") for name in client.files(study))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_is_the_only_one_that_its_job_sees(client, make_runner):
    runner = make_runner(
        preload="torch,collegium.search.engine,collegium.search.sampling.local", extra_handlers="", devices="auto"
    )
    runner.close()
    from collegium.worker.process.slots import plan_slots
    from collegium.worker.runner import Runner

    settings = runner._settings
    on_gpu = Runner("gpu", settings, client.store, client.artifacts, runner._resources.publisher, plan_slots(settings))
    on_gpu.start()
    try:
        job = client.store.create("search", SAMPLED, queue="search")[0]
        ended = client.ended(job, 120)
    finally:
        on_gpu.close()
    assert ended.status == "succeeded", ended.failure
    assert ended.result["device"] == "cuda"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_warm_process_leaves_the_visible_devices_to_its_job():
    """CUDA reads them when it is first touched, which nothing that is imported in advance may do."""
    code = (
        "import os, torch\nfrom collegium.worker.compute.__main__ import preload\n"
        f"preload({WorkerSettings().preload!r})\nimport collegium.train.engine\n"
        "os.environ['CUDA_VISIBLE_DEVICES'] = ''\nprint(torch.cuda.device_count())"
    )
    answer = subprocess.run(python("-c", code), env=environment(), capture_output=True, text=True, check=True)
    assert answer.stdout.split() == ["0"]

import pytest

from collegium.search.errors import InvalidSpec
from collegium.search.latency.parts import check_workload
from collegium.search.latency.workload import Workload
from collegium.search.parse import parse_spec


def test_inference_of_one_sample_is_the_default():
    assert Workload().describe() == "inference of 1 sample, fp32"


def test_a_workload_is_described_by_what_was_chosen():
    workload = Workload(
        mode="training", batch_size=32, image_size=96, precision="bf16", channels_last=True, threads=1, optimizer="adam"
    )
    words = "training step of 32 samples, 96×96 images, bf16, channels last, adam, 1 thread"
    assert workload.describe() == words


def test_a_training_step_of_one_sample_is_refused():
    with pytest.raises(InvalidSpec, match="batch_size of at least 2"):
        parse_spec(Workload, {"mode": "training", "batch_size": 1})


@pytest.mark.parametrize(
    ("field", "value"),
    [("batch_size", 0), ("batch_size", True), ("threads", 0), ("image_size", 0), ("precision", "fp8"), ("mode", "run")],
)
def test_wrong_fields_are_refused_with_their_path(field, value):
    with pytest.raises(InvalidSpec) as refusal:
        parse_spec(Workload, {field: value})
    assert refusal.value.path == (field,)


def test_an_image_size_is_refused_where_inputs_have_one_shape(network):
    mlp = network({"preset": "mlp-digits-6x100"})
    with pytest.raises(InvalidSpec) as refusal:
        check_workload(Workload(image_size=8), mlp)
    assert refusal.value.path == ("workload", "image_size")
    check_workload(Workload(image_size=8), network({"preset": "resnet50"}))


def test_channels_last_is_refused_without_convolutions(network):
    with pytest.raises(InvalidSpec) as refusal:
        check_workload(Workload(channels_last=True), network({"preset": "mlp-digits-6x100"}))
    assert refusal.value.path == ("workload", "channels_last")

"""Messages survive encoding and decoding, and other lines are refused."""

import json
import math

import pytest

from collegium.worker import protocol
from collegium.worker.protocol import ProtocolError, decode, encode

EXAMPLES = [
    protocol.Run("j", "search", {"a": [1]}, "/w", "/c", attempt=2, environment={"X": "1"}, lease_s=3.0),
    protocol.Cancel(),
    protocol.LeaseRenewed(),
    protocol.ChildrenEnded([{"key": "k", "status": "succeeded"}]),
    protocol.ChildrenProgress(1, 2),
    protocol.Estimate("k", None),
    protocol.EventsWritten(),
    protocol.Ready(7, 0.5),
    protocol.Progress(0.25, "a\nb"),
    protocol.AddEvent("metric", {"loss": 1.5}),
    protocol.WriteEvents(),
    protocol.StartChildren([{"key": "k", "kind": "shard", "spec": {}}]),
    protocol.GetEstimate("k"),
    protocol.PutEstimate("k", {"r": 1}),
    protocol.JobSucceeded({"ü": "\u2028"}, ["a.txt"]),
    protocol.JobFailed("internal", "m", "r"),
    protocol.JobCancelled(),
]


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda message: message.type)
def test_a_message_is_one_line_and_comes_back(message):
    line = encode(message)
    assert line.count(b"\n") == 1
    assert decode(line) == message


def test_every_kind_of_message_is_tried_here():
    assert {type(message) for message in EXAMPLES} == set(protocol.Message.__subclasses__())


def test_numbers_that_json_does_not_know_are_null():
    line = encode(protocol.JobSucceeded({"a": math.nan, "b": [math.inf, (1, -math.inf)], "c": {"d": 2.5}}))
    assert json.loads(line)["result"] == {"a": None, "b": [None, [1, None]], "c": {"d": 2.5}}


NO_MESSAGES = [
    b"", b"hello", b"3", b"[]", b"{}", b"[" * 100_000, b"\xff",
    b'{"type": "unknown"}', b'{"type": "run"}', b'{"type": "cancel", "x": 1}',
]  # fmt: skip


@pytest.mark.parametrize("line", NO_MESSAGES, ids=lambda line: line[:20].decode(errors="replace"))
def test_anything_else_is_refused(line):
    with pytest.raises(ProtocolError):
        decode(line)

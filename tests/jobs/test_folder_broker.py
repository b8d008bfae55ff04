"""A folder as a broker: whole messages, each to one reader."""

import json
import threading
import time
from queue import Empty

import pytest
from kombu import Connection
from kombu.transport.virtual import BrokerState

from collegium.jobs import folder_broker


@pytest.fixture
def options(tmp_path):
    return folder_broker.options(f"filesystem://{tmp_path / 'broker'}")


@pytest.fixture
def connection(options):
    # kombu remembers bindings per class, and here each test has a folder of its own.
    class Transport(folder_broker.Transport):
        global_state = BrokerState()

    with Connection("filesystem://", transport=Transport, transport_options=options) as opened:
        yield opened


def test_a_message_arrives_once(connection, tmp_path):
    with connection.SimpleQueue("search") as sender, connection.SimpleQueue("train") as other:
        sender.put({"id": "a"})
        sender.put({"id": "b"})
        assert {sender.get(block=False).payload["id"] for _ in range(2)} == {"a", "b"}
        with pytest.raises(Empty):
            sender.get(block=False)
        with pytest.raises(Empty):
            other.get(block=False)
    assert list((tmp_path / "broker" / "taken").iterdir()) == []


def test_a_message_that_is_still_being_written_is_waited_for(connection, options, tmp_path):
    with connection.SimpleQueue("search") as receiver:
        receiver.put({"id": "a"})
        place = next((tmp_path / "broker" / "messages").glob("*.search.msg"))
        whole = place.read_bytes()
        place.write_bytes(whole[:20])

        def finish():
            time.sleep(0.1)
            next((tmp_path / "broker" / "taken").iterdir()).write_bytes(whole)

        writer = threading.Thread(target=finish)
        writer.start()
        assert receiver.get(block=False).payload == {"id": "a"}
        writer.join()


def test_a_message_that_never_becomes_one_is_passed_over(connection, tmp_path):
    with connection.SimpleQueue("search") as receiver:
        (tmp_path / "broker" / "messages" / "0_x.search.msg").write_bytes(b"")
        receiver.put({"id": "a"})
        assert receiver.get(block=False).payload == {"id": "a"}


def test_the_api_writes_where_the_worker_reads(options, tmp_path):
    from collegium.jobs.broker import sender

    app = sender(f"filesystem://{tmp_path / 'broker'}")
    app.send_task("collegium.run_job", args=["job"], queue="search")
    app.close()
    message = json.loads(next((tmp_path / "broker" / "messages").glob("*.search.msg")).read_text())
    assert message["headers"]["task"] == "collegium.run_job"
    assert str(tmp_path / "broker" / "messages") == options["data_folder_in"]

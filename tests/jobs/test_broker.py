"""Messages through Redis and through a folder: sent without delay, read whole, each by one reader."""

import json
import threading
import time
from queue import Empty

import pytest
import redis
from kombu import Connection
from kombu.transport.virtual import BrokerState

from collegium.jobs.broker import TASK, BrokerDown, FolderTransport, Publisher, broker_settings, sender


@pytest.fixture
def options(tmp_path):
    return broker_settings(f"filesystem://{tmp_path / 'broker'}")["broker_transport_options"]


@pytest.fixture
def connection(options):
    # kombu remembers bindings per class, and here each test has a folder of its own.
    class Transport(FolderTransport):
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
    assert list((tmp_path / "broker" / "claimed").iterdir()) == []


def test_a_message_that_is_still_being_written_is_waited_for(connection, options, tmp_path):
    with connection.SimpleQueue("search") as receiver:
        receiver.put({"id": "a"})
        place = next((tmp_path / "broker" / "messages").glob("*.search.msg"))
        whole = place.read_bytes()
        place.write_bytes(whole[:20])

        def finish():
            time.sleep(0.1)
            next((tmp_path / "broker" / "claimed").iterdir()).write_bytes(whole)

        writer = threading.Thread(target=finish)
        writer.start()
        assert receiver.get(block=False).payload == {"id": "a"}
        writer.join()


def test_a_message_that_never_becomes_one_is_passed_over(connection, tmp_path):
    with connection.SimpleQueue("search") as receiver:
        (tmp_path / "broker" / "messages" / "0_x.search.msg").write_bytes(b"")
        receiver.put({"id": "a"})
        assert receiver.get(block=False).payload == {"id": "a"}


@pytest.mark.parametrize("broker_url", ["filesystem://{folder}/broker", "redis://127.0.0.1:1/0"])
def test_sender_and_worker_use_the_same_transport(broker_url, tmp_path):
    from collegium.worker.celery import create_app
    from collegium.worker.settings import WorkerSettings

    url = broker_url.format(folder=tmp_path)
    worker, app = create_app(WorkerSettings(home=tmp_path, broker_url=url)), sender(url)
    assert worker.conf.broker_url == app.conf.broker_url
    assert worker.connection().transport_cls == app.connection().transport_cls
    folders = ("data_folder_in", "data_folder_out", "control_folder", "processed_folder")
    for name in folders:
        assert worker.conf.broker_transport_options.get(name) == app.conf.broker_transport_options.get(name)
    assert TASK in worker.tasks
    app.close()
    worker.close()


def test_what_is_sent_is_what_a_worker_reads(connection, tmp_path):
    app = sender(f"filesystem://{tmp_path / 'broker'}")
    app.send_task(TASK, args=["job"], queue="search")
    app.close()
    with connection.SimpleQueue("search") as receiver:
        message = receiver.get(block=False)
    assert message.headers["task"] == TASK
    assert message.payload[0] == ["job"]


def test_a_message_reaches_redis(redis_url):
    publisher = Publisher(redis_url)
    publisher.check()
    publisher.publish("abc", "search")
    publisher.close()
    with redis.Redis.from_url(redis_url) as client:
        message = json.loads(client.lpop("search"))
    assert message["headers"]["task"] == "collegium.run_job"
    assert "abc" in message["headers"]["argsrepr"]


def test_a_message_becomes_a_file_in_the_folder(tmp_path):
    publisher = Publisher(f"filesystem://{tmp_path}/broker")
    publisher.publish("abc", "train")
    publisher.close()
    (message,) = (tmp_path / "broker/messages").iterdir()
    assert message.name.endswith(".train.msg")
    assert "collegium.run_job" in message.read_text()


def test_a_broker_that_is_down_delays_no_caller():
    failures = []
    publisher = Publisher("redis://127.0.0.1:1/0", failed=lambda: failures.append(1))
    began = time.perf_counter()
    for number in range(50):
        publisher.publish(str(number), "search")
    assert time.perf_counter() - began < 0.1
    publisher.close(10)
    assert len(failures) == 50
    with pytest.raises(BrokerDown):
        publisher.check()

"""What the client says and does when a broker is slow, restarts, changes its term, tells twice, or answers nonsense."""
import asyncio
import gc
import hashlib
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

import gpuq
from gpuq import wire
from brokers import until
from gpuq.ids import id_bytes, id_text
from gpuq.jobs import Batch
from scripted import ScriptedBroker


@pytest.fixture
def broker():
    made = ScriptedBroker()
    yield made
    made.close()


@pytest.fixture
def client(broker):
    with gpuq.Client(broker.endpoint, insecure=True, name="ada", timeout=15) as made:
        yield made


@pytest.fixture
def hands(client):
    """Threads for the blocking calls that a test answers."""
    with ThreadPoolExecutor(8) as pool:
        yield pool
        client.close()      # after a failed test nobody answers any more


def test_a_submit_is_answered_notified_and_acknowledged_once(broker, client, hands):
    submit = hands.submit(client.submit, "echo", params={"k": "v"})
    (item,), (payload,) = broker.answer_submit()
    assert (item["kind"], item["watch"], wire.decode_body("JobBody", payload)["params"]) == ("echo", True, {"k": "v"})
    wait = hands.submit(client.wait, submit.result(10))
    broker.notify(item["id"])
    broker.notify(item["id"])       # told twice
    assert wait.result(10).values == {"n": "1"}
    assert broker.next("Fetched")[0].fields["jobs"] == [item["id"]]
    broker.nothing("Fetched", "Watch")


def test_a_result_that_came_before_anybody_asked_is_kept(broker, client, hands):
    submit = hands.submit(client.submit, "echo")
    (item,), _ = broker.answer_submit()
    submit.result(10)
    broker.notify(item["id"])
    broker.nothing("Fetched", for_s=0.3)
    assert client.wait(id_text(item["id"]), 5).ok
    assert broker.next("Fetched")[0].fields["jobs"] == [item["id"]]


def test_submits_of_many_callers_share_messages_and_a_message_holds_256(broker, client, hands):
    call = hands.submit(client.submit_many, [gpuq.JobSpec("echo") for _ in range(600)])
    sizes = [len(broker.answer_submit()[0]) for _ in range(3)]
    assert sizes == [256, 256, 88] and all(one.ok for one in call.result(10))


def test_answered_batches_are_not_kept_until_their_deadline_and_forgotten_clients_end(broker, hands):
    made = gpuq.Client(broker.endpoint, insecure=True, timeout=3600)
    call = hands.submit(made.submit_many, [gpuq.JobSpec("echo", watch=False) for _ in range(10)])
    broker.answer_submit()
    assert len(call.result(10)) == 10
    del call
    until(lambda: gc.collect() is not None and not any(isinstance(one, Batch) for one in gc.get_objects()), "the batch is gone", 10)
    thread = made._calls.engine._thread
    del made
    until(lambda: gc.collect() is not None and not thread.is_alive(), "its thread ended", 10)


def test_after_a_lost_link_everything_unanswered_is_said_again_under_the_same_ids(broker, client, hands):
    submit = hands.submit(client.submit, "echo")
    first, _ = broker.next("Submit")
    status = hands.submit(client.status, gpuq.new_job_id())
    question, _ = broker.next("StatusQuery")
    broker.lose_everybody()
    again, _ = broker.next("Submit")
    assert again == first, "byte by byte the same"
    broker.say("Submitted", {"items": [{"id": again.fields["items"][0]["id"], "ok": True, "existing": True}]}, again.request)
    assert submit.result(10).existing
    assert broker.next("StatusQuery")[0] == question
    broker.say("StatusReply", {"jobs": [{"found": False}]}, question.request)
    assert not status.result(10)[0].found


def test_a_job_waited_for_is_watched_again_on_a_new_link_and_in_a_new_term(broker, client, hands):
    submit = hands.submit(client.submit, "echo")
    (item,), _ = broker.answer_submit()
    wait = hands.submit(client.wait, submit.result(10))
    broker.nothing("Watch", for_s=0.3)      # its submit watches it already
    broker.lose_everybody()
    message, _ = broker.next("Watch")
    assert message.fields["jobs"] == [item["id"]]
    broker.say("Watched", {"unknown": []}, message.request)
    broker.term = 2                         # in the next BeatReply
    message, _ = broker.next("Watch")
    broker.say("Watched", {"unknown": []}, message.request)
    broker.term = 1                         # an old broker's word
    broker.nothing("Watch", for_s=0.5)
    broker.notify(item["id"])
    assert wait.result(10).ok


def test_unavailable_is_asked_again_and_other_failures_are_not(broker, client, hands):
    top = hands.submit(client.top)
    for _ in range(2):
        message, _ = broker.next("TopQuery")
        broker.say("Failure", {"code": "UNAVAILABLE", "what": "the store is away", "next": "wait"}, message.request)
    message, _ = broker.next("TopQuery")
    broker.say("TopReply", {"term": 9}, message.request)
    assert top.result(10).term == 9
    submit = hands.submit(client.submit, "echo")
    message, _ = broker.next("Submit")
    broker.say("Submitted", {"items": [{"id": message.fields["items"][0]["id"], "ok": False, "code": "UNAVAILABLE"}]}, message.request)
    broker.answer_submit()
    assert submit.result(10).ok
    explain = hands.submit(client.explain, gpuq.new_job_id())
    message, _ = broker.next("ExplainQuery")
    broker.say("Failure", {"code": "A_LATER_CODE", "what": "new", "next": "old"}, message.request)
    with pytest.raises(gpuq.Error) as error:
        explain.result(10)
    assert (error.value.code, error.value.what, error.value.next) == ("A_LATER_CODE", "new", "old")


def test_a_job_that_is_not_there_is_asked_for_twice_before_that_is_believed(broker, client, hands):
    job = gpuq.new_job_id()
    wait = hands.submit(client.wait, job)
    for _ in range(2):
        message, _ = broker.next("Watch")
        broker.say("Watched", {"unknown": [id_bytes(job)]}, message.request)
    with pytest.raises(gpuq.NotFoundError):
        wait.result(10)


def test_an_upload_goes_on_where_it_was_when_the_link_broke(broker, client, hands):
    data = os.urandom(400_000)
    upload = hands.submit(client.upload, data)
    message, body = broker.next("BlobPut")
    assert (message.fields["blob"], message.fields["total"], body) == (hashlib.sha256(data).digest(), len(data), b"")
    broker.say("BlobPutReply", {"blob": message.fields["blob"], "next": 100_000}, message.request)      # it had some from before
    got = bytearray(data[:100_000])
    broken = False
    while len(got) < len(data):
        message, body = broker.next("BlobPut")
        offset = message.fields["offset"]
        if not broken and len(got) > 200_000:
            broken = True
            broker.lose_everybody()
            continue
        if offset == len(got):
            got += body
        broker.say("BlobPutReply", {"blob": message.fields["blob"], "next": len(got), "complete": len(got) == len(data)}, message.request)
    assert upload.result(10).size == len(data) and bytes(got) == data and broken


def test_a_download_that_is_not_what_its_name_says_is_refused(broker, client, hands):
    data = os.urandom(150_000)
    for honest in (True, False):
        fetch = hands.submit(client.fetch, hashlib.sha256(data).hexdigest())
        got = 0
        while got < len(data):
            message, _ = broker.next("BlobGet")
            offset = message.fields["offset"]
            piece = data[offset:offset + min(message.fields["bytes_max"], 50_000)]      # shorter than asked for
            got += len(piece)
            broker.say("BlobGetReply", {"blob": message.fields["blob"], "total": len(data), "offset": offset}, message.request,
                       piece if honest else bytes(len(piece)))
        if honest:
            assert fetch.result(10) == data
        else:
            with pytest.raises(gpuq.Error) as error:
                fetch.result(10)
            assert error.value.code == "INTERNAL"


def test_nonsense_is_dropped_or_refused_but_hangs_nobody(broker, client, hands):
    top = hands.submit(client.top)
    message, _ = broker.next("TopQuery")
    for frames in ([b"\xc1"], [b""], [wire.header(65000, 1) + b"\x80"], [b"a", b"b", b"c"]):
        broker.socket.send_multipart([broker.peer, *frames])
    broker.say("WorkersReply", {}, message.request)
    with pytest.raises(gpuq.Error) as error:
        top.result(10)
    assert error.value.code == "PROTOCOL"
    submit = hands.submit(client.submit, "echo")
    (item,), _ = broker.answer_submit()
    wait = hands.submit(client.wait, submit.result(10))
    broker.nothing("Watch", for_s=0.3)
    broker.say("Notify", {"items": [{"id": item["id"], "state": 5, "payload_bytes": 3}]}, body=b"\xc1\xc1\xc1")
    with pytest.raises(gpuq.Error) as error:
        wait.result(10)
    assert error.value.code == "BAD_MESSAGE"


def test_infer_and_synthesize_send_what_a_worker_reads_and_give_what_it_answers(broker, client, hands):
    weights = gpuq.Tensor("f4", (2,), bytes(8))
    large = gpuq.Tensor("u1", (100_000,), os.urandom(100_000))
    call = hands.submit(client.infer, "net@v3", {"x": weights, "options": {"k": 1}}, params={"topk": 5}, priority=9)
    (item,), (payload,) = broker.answer_submit()
    body = wire.decode_body("JobBody", payload)
    assert (item["kind"], item["model"], item["job_class"], item["priority"], body["params"]) == ("infer", "net@v3", 0, 9, {"topk": "5"})
    assert [(part["name"], part["media"], part["bytes"]) for part in body["parts"]] == [
        ("x", "application/x-gpuq-tensor", weights.encode()), ("options", "application/json", b'{"k": 1}')]
    blob = hashlib.sha256(large.encode()).digest()
    broker.nothing("Watch", for_s=0.2)
    broker.notify(item["id"], result={"parts": [
        {"name": "y", "media": "application/x-gpuq-tensor", "bytes": weights.encode()}, {"name": "j", "media": "application/json", "bytes": b"[1]"},
        {"name": "big", "media": "application/x-gpuq-tensor", "blob": blob, "blob_bytes": len(large.encode())}]})
    while not call.done():
        message, _ = broker.next("BlobGet", "Fetched")
        if message.name == "Fetched":
            break       # only once the blob was read, too
        offset = message.fields["offset"]
        broker.say("BlobGetReply", {"blob": blob, "total": len(large.encode()), "offset": offset}, message.request,
                   large.encode()[offset:offset + message.fields["bytes_max"]])
    outputs = call.result(10)
    assert sorted(outputs) == ["big", "j", "y"] and outputs["j"] == [1] and bytes(outputs["big"]) == large.data and list(outputs["y"]) == [0, 0]
    assert outputs.result.id == id_text(item["id"])

    call = hands.submit(client.synthesize, "faces", 2, seed=7)
    (item,), (payload,) = broker.answer_submit()
    assert (item["kind"], item["job_class"], wire.decode_body("JobBody", payload)["params"]) == ("synthesize", 2, {"count": "2", "seed": "7"})
    broker.notify(item["id"], result={"parts": [{"name": f"{n}.png", "media": "image/png", "bytes": b"png%d" % n} for n in range(2)]})
    assert call.result(10) == [b"png0", b"png1"]


def test_a_coroutine_cancelled_before_its_submit_is_answered_cancels_the_job_once_it_is(broker):
    async def story():
        async with gpuq.AsyncClient(broker.endpoint, insecure=True, timeout=15) as client:
            call = asyncio.ensure_future(client.detect("m", b"image"))
            message, _ = await asyncio.to_thread(broker.next, "Submit")
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            await asyncio.to_thread(broker.nothing, "CancelJobs")       # not known to be there yet
            job = message.fields["items"][0]
            assert job["deadline_ms"] > 0, "it never starts for a caller who has left"
            broker.say("Submitted", {"items": [{"id": job["id"], "ok": True}]}, message.request)
            cancel, _ = await asyncio.to_thread(broker.next, "CancelJobs")
            assert cancel.fields["jobs"] == [job["id"]]
    asyncio.run(story())


def test_a_request_whose_client_hangs_up_is_cancelled():
    async def story():
        begun, cancelled = asyncio.Event(), asyncio.Event()

        async def work():
            begun.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.set()
                raise

        async def receive():
            await begun.wait()
            return {"type": "http.disconnect"}

        with pytest.raises(gpuq.Error) as error:
            await gpuq.unless_disconnected(receive, work())
        assert error.value.code == "CANCELLED" and cancelled.is_set()

        async def connected():
            await asyncio.Event().wait()

        async def quick():
            return 7
        assert await gpuq.unless_disconnected(connected, quick()) == 7
    asyncio.run(story())


def test_a_call_without_an_answer_ends_at_its_deadline(broker):
    with gpuq.Client(broker.endpoint, insecure=True, timeout=0.4) as client:
        pump = threading.Thread(target=lambda: broker.nothing("never", for_s=2.0))
        pump.start()
        for call in (client.top, lambda: client.submit("echo"), lambda: client.wait(gpuq.new_job_id())):
            with pytest.raises(gpuq.TimedOutError) as error:
                call()
            assert error.value.what and error.value.next
        pump.join()


def test_a_log_is_followed_across_a_lost_link_without_a_byte_twice(broker, client, hands):
    job = gpuq.new_job_id()
    follow = hands.submit(lambda: b"".join(chunk.data for chunk in client.follow_logs(job)))
    message, _ = broker.next("LogQuery")
    assert message.fields == {"job": id_bytes(job), "offset": 0, "follow": True, "model": ""}
    broker.say("LogReply", {"job": id_bytes(job), "offset": 0, "next": 4}, message.request, b"one ")
    broker.nothing("LogQuery", for_s=0.3)
    broker.lose_everybody()
    message, _ = broker.next("LogQuery")
    assert message.fields["offset"] == 4
    broker.say("LogReply", {"job": id_bytes(job), "offset": 2, "next": 7}, message.request, b"e two")
    broker.say("LogReply", {"job": id_bytes(job), "offset": 7, "next": 7, "end": True}, message.request)
    assert follow.result(10) == b"one two"


def test_a_closed_client_fails_those_who_wait_and_those_who_come(broker, client, hands):
    submit = hands.submit(client.submit, "echo")
    (item,), _ = broker.answer_submit()
    wait = hands.submit(client.wait, submit.result(10))
    broker.nothing("Watch", for_s=0.2)
    client.close()
    for call in (lambda: wait.result(10), client.top):
        with pytest.raises(gpuq.Error) as error:
            call()
        assert error.value.code == "CANCELLED"
    assert broker.next("Goodbye")[0].fields["reason"] == "closing"
    client.close()


def test_a_client_made_before_a_fork_says_so(broker, client):
    child = os.fork()
    if child == 0:
        try:
            client.top()
        except gpuq.UsageError as error:
            os._exit(0 if "fork" in error.what else 1)
        except BaseException:
            os._exit(2)
        os._exit(3)
    assert os.waitpid(child, 0)[1] == 0

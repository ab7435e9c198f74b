"""The client against the real broker, its Redis and a real worker: what a backend does all day, and what goes wrong."""
import asyncio
import datetime
import json
import os
import pathlib
import random
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

import gpuq
from brokers import BIN, SOURCE, Home, until


@pytest.fixture(scope="module")
def home():
    with Home() as made:
        made.start_broker()
        made.start_worker("anna", "--labels", "zone=a")
        yield made


@pytest.fixture(scope="module")
def client(home):
    with gpuq.Client(access_file=home.access()) as made:
        yield made


@pytest.fixture(scope="module")
def admin(home):
    with gpuq.Client(access_file=home.access("root", "admin")) as made:
        yield made


def refused(code, call, *args, **more):
    with pytest.raises(gpuq.Error) as error:
        call(*args, **more)
    assert error.value.code == code, error.value
    assert error.value.what and error.value.next, "what happened, and what to do about it"
    return error.value


def test_parts_of_every_kind_come_back_as_they_were(client, tmp_path):
    file = tmp_path / "file.bin"
    file.write_bytes(os.urandom(1000))
    result = client.run("echo", parts={"bytes": b"\0\xff", "text": "Grüße", "json": {"a": [1, 2]}, "file": file, "empty": b""})
    assert [part.value() for part in result.parts] == [b"\0\xff", "Grüße".encode(), {"a": [1, 2]}, file.read_bytes(), b""]
    numpy = pytest.importorskip("numpy")
    array = numpy.random.default_rng(1).normal(size=(3, 5, 7)).astype("f4")
    assert (client.run("echo", parts={"t": array}).part("t").value() == array).all()


def test_a_client_that_closes_right_behind_its_result_has_fetched_it(home, client):
    with gpuq.Client(access_file=home.access("brief")) as brief:
        job = brief.run("echo", durability="none")
    until(lambda: not client.status(job.id)[0].found, "what was fetched to be forgotten", 30)


@pytest.mark.parametrize("way", ["as a file", "in pieces", "no such folder"])
def test_a_large_part_of_a_job_in_memory_arrives_whichever_way_it_goes(home, monkeypatch, tmp_path, way):
    if way == "in pieces":
        monkeypatch.setattr("gpuq.engine._on_this_machine", lambda endpoint: False)
    data = os.urandom(700_001)
    with gpuq.Client(access_file=home.access("near")) as near:
        near.run("echo", durability="none")
        engine = near._calls.engine
        if way == "no such folder":
            engine.near_folder = str(tmp_path / "nowhere")
        part = near.run("echo", parts={"large": data, "small": b"x"}, durability="none").part("large")
        assert bytes.fromhex(part.blob).startswith(b"gpuqbrf1"), "nobody hashed it"
        assert near.fetch(part) == data
        path = tmp_path / "fetched"
        near.fetch_to(part, path)
        assert path.read_bytes() == data
        assert bool(engine.near_folder) == (way == "as a file"), engine.near_folder
        assert not list((home.root / "data/blobs/near").iterdir())
        mine = gpuq.new_job_id()
        for _ in range(2):      # an id of the caller's: its content gives the names, so that it is the same job when it is said again
            assert not near.run("echo", parts={"large": data}, durability="none", id=mine).part("large").blob.startswith(b"gpuqbrf1".hex())
        with pytest.raises(gpuq.Error) as error:
            near.run("echo", parts={"large": part})
        assert error.value.code == "UNKNOWN_BLOB", "a durable job may not name it"


def test_ten_thousand_jobs_in_batches_each_with_its_own_result(client):
    before = client.top()
    specs = [gpuq.JobSpec("echo", parts={"n": str(n)}) for n in range(10_000)]
    submitted = client.submit_many(specs)
    assert all(one.ok and not one.existing for one in submitted)
    results = client.wait_many(submitted, 120)
    assert [result.id for result in results] == [one.id for one in submitted]
    assert [result.parts[0].text() for result in results] == [str(n) for n in range(10_000)]
    after = client.top()
    assert after.submitted - before.submitted == after.succeeded - before.succeeded == 10_000


def test_what_a_models_name_means_is_said_by_admins_on_conditions_and_taken_back(client, admin):
    one = admin.push_model("lives", b"weights one", metadata='{"metrics": {"map50": 0.5}}')
    two = admin.push_model("lives", b"weights two", metadata='{"metrics": {"map50": 0.7}}', promote=False)
    assert one.promoted and one.promoted_ms and not two.promoted
    assert "map50 0.7 > 1" in refused("CONDITION_FALSE", admin.promote_model, "lives", two.version, "map50 > current + 0.5").what
    assert admin.promote_model("lives", two.version, "map50 > current").version == two.version
    assert {model.version: model.promoted for model in client.models()} == {one.version: False, two.version: True}
    refused("REFUSED", client.rollback_model, "lives")
    assert admin.rollback_model("lives").version == one.version
    refused("NOT_FOUND", admin.rollback_model, "lives")
    assert client.model_logs("lives").data == b"", "no process of it has printed"
    admin.remove_model("lives")


def test_one_refused_job_does_not_harm_the_others_of_its_call(client):
    answers = client.submit_many([gpuq.JobSpec("echo"), gpuq.JobSpec("no-such-kind"), gpuq.JobSpec("echo", priority=11), gpuq.JobSpec("echo"),
                                  gpuq.JobSpec("detect", model="no-such-model")])
    assert [one.ok for one in answers] == [True, False, False, True, False]
    assert [one.code for one in answers] == ["", "UNKNOWN_KIND", "OVER_LIMIT", "", "UNKNOWN_MODEL"]
    refused("UNKNOWN_MODEL", client.detect, "no-such-model", b"\x89PNG")
    assert client.submit_many([]) == [] and client.wait_many([]) == []


def test_the_same_id_again_is_the_same_job_and_another_content_is_a_conflict(client):
    job = gpuq.new_job_id()
    assert not client.submit("echo", id=job, parts={"p": b"1"}).existing
    assert client.submit("echo", id=job, parts={"p": b"1"}).existing
    refused("ID_CONFLICT", client.submit, "echo", id=job, parts={"p": b"2"})
    client.submit("sleep", unique="only one", params={"ms": 60_000})
    refused("DUPLICATE", client.submit, "sleep", unique="only one", params={"ms": 1})
    client.cancel(*[job for job in client.list(kind="sleep", active_only=True)])


def test_a_hundred_megabytes_travel_through_the_blob_store_once(client, tmp_path):
    file = tmp_path / "large"
    file.write_bytes(random.Random(3).randbytes(100 << 20))
    result = client.run("echo", parts={"large": file, "small": b"x"}, timeout=120)
    large = result.part("large")
    assert (large.size, large.data, len(large.blob)) == (100 << 20, None, 64)
    refused("NOT_FOUND", large.bytes)
    client.fetch_to(large, tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == file.read_bytes() and not (tmp_path / "back.part").exists()
    began = time.monotonic()
    again = client.upload(file)
    assert (again.blob, again.size) == (large.blob, large.size)
    assert client.run("echo", parts=[gpuq.Part("known", blob=again.blob, size=again.size)]).parts[0].blob == again.blob
    refused("UNKNOWN_BLOB", client.submit, "echo", parts=[gpuq.Part("p", blob="ab" * 32, size=1)])
    refused("UNKNOWN_BLOB", client.fetch, "ab" * 32)
    assert time.monotonic() - began < 60


def test_a_command_gives_its_output_its_exit_code_its_artefacts_and_its_failure(client, tmp_path):
    job = client.command(["sh", "-c", "echo one; while [ ! -e go ]; do sleep 0.02; done; echo $WORD; head -c 200000 /dev/zero > $GPUQ_OUTPUT_DIR/zeros"],
                         cwd=str(tmp_path), env={"WORD": "two"})
    logs = client.follow_logs(job, timeout=30)
    assert next(logs).data == b"one\n"
    refused("UNAVAILABLE", client.result, job)
    (tmp_path / "go").touch()
    assert b"".join(chunk.data for chunk in logs) == b"two\n"
    result = client.wait(job).check()
    assert result.values["exit_code"] == "0" and client.fetch(result.part("zeros")) == bytes(200_000)
    assert client.logs(job).data == b"one\ntwo\n" and client.result(job).id == job.id
    error = refused("JOB_FAILED", client.run, "command", argv=["sh", "-c", "exit 7"])
    assert isinstance(error, gpuq.JobError) and error.result.values["exit_code"] == "7"


def test_progress_is_a_stream_that_ends_with_the_job(client, tmp_path):
    script = ("import os, time\nfrom gpuq import job\nfor step in range(1, 4):\n"
              "    time.sleep(2 * job.PROGRESS_INTERVAL_S)\n    job.progress(step, 3, loss=1 / step)\n"
              f"    while not os.path.exists({str(tmp_path / 'go')!r} + str(step)): time.sleep(0.01)\n")
    submitted = client.command([sys.executable, "-c", script], env={"PYTHONPATH": str(SOURCE / "client/python")}, timeout=60)
    seen = []
    for now in client.progress(submitted, interval=0.05):
        seen.append(now)
        if now.step and not (tmp_path / f"go{now.step}").exists():
            assert now.metrics == {"loss": 1 / now.step}
            (tmp_path / f"go{now.step}").touch()
    assert [now.step for now in seen if now.state == "running" and now.step][-1] == 3 and seen[-1].state == "succeeded"
    refused("NOT_FOUND", lambda: next(client.progress(gpuq.new_job_id())))


def test_a_call_ends_at_its_deadline_and_its_job_goes_on_or_is_cancelled_as_asked(client):
    job = client.submit("sleep", params={"ms": 60_000})
    error = refused("TIMED_OUT", client.wait, job, 0.2)
    assert "goes on" in error.what and isinstance(error, TimeoutError)
    assert client.status(job)[0].state in ("ready", "running")
    refused("TIMED_OUT", client.wait, job, 0.1, cancel_on_abandon=True)
    assert client.wait(job).state == "cancelled"
    given = gpuq.new_job_id()
    refused("TIMED_OUT", client.run, "sleep", id=given, params={"ms": 60_000}, timeout=0.4, cancel_on_abandon=True)
    until(lambda: client.status(given)[0].state == "cancelled", "the job of a caller who left is cancelled")
    assert client.cancel(job, gpuq.new_job_id()) == ["already_final", "unknown"]


def test_a_cancelled_coroutine_cancels_its_job_unless_told_otherwise(home, client):
    async def story():
        async with gpuq.AsyncClient(access_file=home.access()) as inner:
            left, kept = gpuq.new_job_id(), gpuq.new_job_id()
            calls = [asyncio.ensure_future(inner.run("sleep", id=job, params={"ms": 60_000}, cancel_on_abandon=gives_up))
                     for job, gives_up in ((left, True), (kept, False))]

            async def states():
                return [one.state for one in await inner.status(left, kept)]
            while await states() != ["running", "running"]:
                await asyncio.sleep(0.02)
            for call in calls:
                call.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await call
            while await states() != ["cancelled", "running"]:
                await asyncio.sleep(0.02)
            await inner.cancel(kept)
            assert (await inner.wait(kept)).state == "cancelled"
    asyncio.run(asyncio.wait_for(story(), 60))


def test_coroutines_cancelled_at_any_moment_leave_no_job_behind(home, client):
    chance = random.Random(11)

    async def story():
        async with gpuq.AsyncClient(access_file=home.access()) as inner:
            await inner.top()
            jobs = [gpuq.new_job_id() for _ in range(200)]
            calls = [asyncio.ensure_future(inner.run("sleep", id=job, params={"ms": 60_000}, cancel_on_abandon=True)) for job in jobs]
            for call in calls:
                if chance.random() < 0.2:
                    await asyncio.sleep(chance.random() / 200)
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)
            while not all(one.state in ("cancelled", "") for one in await inner.status(*jobs)):
                await asyncio.sleep(0.05)
    asyncio.run(asyncio.wait_for(story(), 60))
    assert client.list(kind="sleep", active_only=True) == []


def test_hundreds_of_coroutines_share_one_client_and_one_loop(home):
    async def story():
        async with gpuq.AsyncClient(access_file=home.access()) as inner:
            results = await asyncio.gather(*[inner.run("echo", parts={"n": n}) for n in range(500)])
            assert [result.parts[0].json() for result in results] == list(range(500))
            job = await inner.command(["sh", "-c", "echo streamed"])
            assert [chunk.data async for chunk in inner.follow_logs(job)] == [b"streamed\n"]
            assert [now.state async for now in inner.progress(job)][-1] == "succeeded"
            assert (await inner.upload(b"x" * 100_000)).size == 100_000
    asyncio.run(asyncio.wait_for(story(), 60))


def test_threads_share_one_client(client):
    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(lambda n: client.run("echo", parts={"n": n}).parts[0].json(), range(400))) == list(range(400))


def test_questions_about_the_system(client, admin):
    first = client.submit("sleep", params={"ms": 1}, label="named")
    second = client.submit("echo", after=[first.id])
    assert client.wait(second).started_ms >= client.wait(first).ended_ms
    found = client.status(second, gpuq.new_job_id())
    assert (found[0].found, found[0].after, found[0].final, found[1].found) == (True, [first.id], True, False)
    assert client.status(first)[0].label == "named" and client.status(first)[0].owner == "ada"
    page = client.list(limit=1)
    assert len(page) == 1 and client.list(limit=1, after=page[0].id)[0].id < page[0].id
    worker, = client.workers()
    assert (worker.name, worker.state, worker.labels[-1]) == ("anna", "live", "zone=a") and worker.devices[0].kind == "cpu"
    assert client.top().jobs["inference"]["succeeded"] > 0 and client.models() == []
    waiting = client.submit("echo", where=["zone=b"])
    why = client.explain(waiting)
    assert (why.job, why.would_start) == (waiting.id, False) and why.summary
    assert client.plan("echo").would_start and not client.plan("echo", where=["zone=b"]).would_start
    assert client.hold(waiting, reason="not yet")[0].ok and client.status(waiting)[0].held and client.release(waiting)[0].ok
    client.update(waiting, where=["zone=a"], priority=9)
    assert client.wait(waiting).ok
    again = client.retry(waiting)
    assert client.wait(again).ok and client.status(again)[0].retry_of == waiting.id
    refused("REFUSED", client.drain, "anna")
    assert "anna" in admin.drain("anna", reason="test") and client.workers()[0].state == "draining"
    admin.undrain("anna")
    refused("NOT_FOUND", admin.drain, "nobody")
    later = client.submit("echo", not_before=datetime.timedelta(hours=1))
    assert client.status(later)[0].state == "waiting" and client.cancel(later) == ["cancelled"]
    assert refused("EXPIRED", client.run, "echo", where=["zone=b"], deadline=datetime.timedelta(seconds=0.2)).result.state == "expired"


def with_access(home, tmp_path, **changes):
    path = tmp_path / "changed.json"
    path.write_text(json.dumps({**json.loads(pathlib.Path(home.access()).read_text()), **changes}))
    path.chmod(0o600)
    return str(path)


def test_a_wrong_key_and_a_wrong_server_key_are_said_within_seconds(home, tmp_path):
    import zmq
    public, secret = (key.decode() for key in zmq.curve_keypair())
    for changes, word in (({"public": public, "secret": secret}, "refused key ada"), ({"server": public}, "wrong server key")):
        began = time.monotonic()
        with gpuq.Client(access_file=with_access(home, tmp_path, **changes)) as client:
            assert word in refused("KEY_REFUSED", client.submit, "echo").what
        assert time.monotonic() - began < 8
    with gpuq.Client(home.ready["clients"], insecure=True) as client:
        refused("PROTOCOL", client.top)


def test_a_broker_that_is_not_there_is_unreachable_within_the_connect_timeout(home, tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))     # bound, not listening: nobody answers there
        path = with_access(home, tmp_path, broker=f"tcp://127.0.0.1:{taken.getsockname()[1]}")
        with gpuq.Client(access_file=path, connect_timeout=0.5) as client:
            assert "gpuq up" in refused("UNREACHABLE", client.submit, "echo").next


def test_a_key_that_is_revoked_is_told_so_and_a_closed_client_leaves_no_thread(home):
    import threading
    with gpuq.Client(access_file=home.access("eve"), timeout=20) as client:
        assert client.run("echo").ok
        subprocess.run([BIN / "gpuq", "keys", "--keys", home.root / "data/keys", "revoke", "eve"], env=home.env, check=True, capture_output=True)
        until(lambda: not client.connected, "the link is closed")
        refused("KEY_REFUSED", client.submit, "echo")
        thread = client._calls.engine._thread
    assert not thread.is_alive() and thread not in threading.enumerate()

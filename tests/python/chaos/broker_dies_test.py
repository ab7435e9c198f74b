"""The broker is killed with -9 and comes back under the client's calls: no job is lost, none is made or answered twice."""
import asyncio
import collections
import hashlib
import os
import threading

import pytest

import gpuq
from brokers import Home, until


@pytest.fixture
def home():
    with Home() as made:
        made.start_broker("--restart-grace", "2s")
        made.start_worker()
        yield made


def again(home):
    home.kill_broker()
    home.start_broker("--restart-grace", "2s")


def test_no_job_is_lost_and_none_is_answered_twice_while_the_broker_is_killed_three_times(home):
    total, wave = 3000, 100
    ended = collections.Counter()

    async def story():
        async with gpuq.AsyncClient(access_file=home.access(), timeout=120) as client:
            async def one_wave(first):
                specs = [gpuq.JobSpec("echo", parts={"n": n}, label=str(n)) for n in range(first, first + wave)]
                submitted = await client.submit_many(specs)
                assert all(one.ok for one in submitted), [one for one in submitted if not one.ok][:3]
                for n, result in zip(range(first, first + wave), await client.wait_many(submitted)):
                    assert result.check().parts[0].json() == n
                    ended[result.id] += 1

            async def waves(start):
                for first in range(start, total, 3 * wave):
                    await one_wave(first)
            work = asyncio.gather(*[waves(start) for start in (0, wave, 2 * wave)])
            for killed_after in (300, 1000, 1800):
                while len(ended) < killed_after and not work.done():
                    await asyncio.sleep(0.01)
                await asyncio.to_thread(again, home)
            await work
            assert client.connected
            everything = []
            while True:
                page = await client.list(kind="echo", limit=1000, after=everything[-1].id if everything else "")
                everything += page
                if not page:
                    return everything
    everything = asyncio.run(asyncio.wait_for(story(), 240))
    assert len(ended) == total and set(ended.values()) == {1}
    assert sorted(int(one.label) for one in everything) == list(range(total)), "each submit made exactly one job"
    assert {one.state for one in everything} == {"succeeded"}


def test_calls_made_while_no_broker_is_there_are_answered_when_it_is(home):
    with gpuq.Client(access_file=home.access(), timeout=60) as client:
        running = client.submit("sleep", params={"ms": 1500})
        until(lambda: client.status(running)[0].state == "running", "it runs")
        home.kill_broker()
        until(lambda: not client.connected, "the link is seen to be gone")
        answers = {}
        calls = {"submit": lambda: client.submit("echo"), "status": lambda: client.status(running)[0].state, "wait": lambda: client.wait(running).state,
                 "top": lambda: client.top().term}
        threads = [threading.Thread(target=lambda name=name, call=call: answers.update({name: call()})) for name, call in calls.items()]
        for thread in threads:
            thread.start()
        home.start_broker("--restart-grace", "2s")
        for thread in threads:
            thread.join(60)
        assert set(answers) == set(calls) and answers["wait"] == "succeeded"
        assert client.wait(answers["submit"]).ok
        assert client.status(running)[0].attempt == 1, "a job that lives through the restart is not started again"


def test_with_durability_none_a_caller_hears_that_the_broker_went_and_may_ask_again(home):
    with gpuq.Client(access_file=home.access(), timeout=60) as client:
        said = []

        def call():
            try:
                client.run("sleep", params={"ms": 60_000}, durability="none")
            except gpuq.Error as error:
                said.append(error)
        waiting = threading.Thread(target=call)
        waiting.start()
        until(lambda: [one for one in client.list() if one.state == "running"], "it runs")
        again(home)
        waiting.join(30)
        assert [error.code for error in said] == ["UNAVAILABLE"] and "durability none" in said[0].what
        assert client.run("echo", parts={"a": b"x"}, durability="none").ok
        until(lambda: not client.list(), "fetched, it is forgotten, and the other never was on disk")


def test_an_upload_and_a_download_live_through_a_killed_broker(home, tmp_path):
    data = os.urandom(200 << 20)
    file = tmp_path / "large"
    file.write_bytes(data)
    with gpuq.Client(access_file=home.access(), timeout=60) as client:
        for direction in ("put", "get"):
            done = []
            call = (lambda: client.upload(file)) if direction == "put" else (lambda: client.fetch_to(hashlib.sha256(data).hexdigest(), tmp_path / "back"))
            chunks = []
            take = client._calls.engine._received
            client._calls.engine._received = lambda *frames: (chunks.append(1), take(*frames))
            thread = threading.Thread(target=lambda: done.append(call() or True))
            thread.start()
            until(lambda: len(chunks) > 100 or done, "it is on its way")
            again(home)
            thread.join(60)
            assert done, direction
            client._calls.engine._received = take
        assert (tmp_path / "back").read_bytes() == data
        client.submit("echo", parts=[gpuq.Part("large", blob=hashlib.sha256(data).hexdigest(), size=len(data))])


def test_a_log_is_followed_through_a_killed_broker(home, tmp_path):
    with gpuq.Client(access_file=home.access(), timeout=60) as client:
        job = client.command(["sh", "-c", "echo one; while [ ! -e go ]; do sleep 0.02; done; echo two"], cwd=str(tmp_path))
        logs = client.follow_logs(job, timeout=60)
        assert next(logs).data == b"one\n"
        again(home)
        until(lambda: client.connected and client.workers() and client.workers()[0].state == "live", "everybody is back")
        (tmp_path / "go").touch()
        rest = b"".join(chunk.data for chunk in logs)
        assert rest.endswith(b"two\n") and rest.count(b"two") == 1
        assert client.wait(job).ok and client.status(job)[0].attempt == 1

"""Requests made from openapi.json, right and wrong ones, thrown at gpuq-http: every answer is one that the description promises."""
import os
import subprocess
import sys

from brokers import Home

CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance,response_headers_conformance,unsupported_method"


def test_no_request_gets_an_answer_that_is_not_described():
    with Home() as home:
        home.start_broker("--restart-grace", "2s")      # and no worker: nothing that is accepted by chance runs
        token = home.http_token("fuzzer")
        with home.http_door() as url:
            fuzzed = subprocess.run([sys.executable, "-m", "schemathesis.cli", "run", f"{url}/api/v1/openapi.json", "-H", f"Authorization: Bearer {token}", "--checks", CHECKS,
                                     "--max-examples", "20", "--seed", "1", "--phases", "examples,coverage,fuzzing", "--no-color"], env=dict(os.environ, HOME=str(home.root)),
                                    cwd=home.root, capture_output=True, text=True, timeout=240)
            assert fuzzed.returncode == 0, fuzzed.stdout[-8000:] + fuzzed.stderr[-2000:]
            assert "Tested: 10" in fuzzed.stdout, fuzzed.stdout[-3000:]

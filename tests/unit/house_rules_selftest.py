#!/usr/bin/env python3
"""Each house rule is broken once, in a small copy of a house: the rule must notice, and a clean copy must pass."""
import pathlib
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import house_rules  # noqa: E402

CLEAN = {
    "broker/core/core.h": '#include <vector>\n#include "common/vocabulary/ids.h"\n// throw nothing, ask no clock: now()\n',
    "broker/core/core.cpp": '#include <algorithm>\n#include "broker/core/core.h"\nconst char* t = "throw";\n',
    "worker/child/frame.cpp": "#include <sys/socket.h>\n",
    "worker/executors/model.cpp": '#include <torch/torch.h>\n#include "worker/child/frame.h"\n',
    "client/include/gpuq/client.h": "#include <string>\n#include <gpuq/types.h>\n",
    "common/vocabulary/errors.h": '#define GQ_ERROR_CODES(X) \\\n  X(usage, "USAGE", 2) \\\n  X(no_fit, "NO_FIT", 1)\n',
    "ARCHITECTURE.md": "| code | means |\n|---|---|\n| `USAGE` | wrong use |\n| `NO_FIT` | fits nowhere |\n",
    "README.md": "gpuq\n",
    ".gitignore": "build\n",
}
GRAPH = """gpuq_vocabulary|common/vocabulary|gpuq_options;tl::expected
gpuq_wire|common/wire|gpuq_vocabulary;PkgConfig::msgpack
gpuq_core|broker/core|gpuq_options;gpuq_vocabulary
gpuq_store|broker/store|gpuq_core;gpuq_wire
gpuq_child|worker/child|gpuq_options
gpuq_executors|worker/executors|gpuq_child;torch
gpuq_client|client/lib|$<LINK_ONLY:gpuq_wire>
gpuq|client/cli|gpuq::client
sim|tests|gpuq_core;gpuq_store
"""


class HouseRules(unittest.TestCase):
    def breaches(self, changes=None, graph=GRAPH):
        with tempfile.TemporaryDirectory() as folder:
            root = pathlib.Path(folder)
            for name, text in {**CLEAN, **(changes or {})}.items():
                if text is None:
                    continue
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                (root / name).write_text(text, encoding="utf-8")
            subprocess.run(["git", "init", "-q", str(root)], check=True)
            subprocess.run(["git", "-C", str(root), "add", "-A"], check=True)
            links = root / ".git" / "links.txt"
            links.write_text(graph, encoding="utf-8")
            return list(house_rules.complaints(root, links))

    def assert_noticed(self, rule, changes=None, graph=GRAPH):
        found = self.breaches(changes, graph)
        self.assertEqual(1, len(found), found)
        self.assertTrue(found[0].startswith(f"[{rule}]"), found[0])

    def test_a_clean_house_passes(self):
        self.assertEqual([], self.breaches())

    def test_the_core_may_not_see_the_wire(self):
        self.assert_noticed("core", {"broker/core/life.cpp": '#include "common/wire/messages.h"\n'})

    def test_the_core_may_not_see_the_store_or_the_log(self):
        self.assert_noticed("core", {"broker/core/life.cpp": '#include "broker/store/store.h"\n'})
        self.assert_noticed("core", {"broker/core/life.cpp": '#include "common/log.h"\n'})

    def test_the_core_may_not_include_third_parties_threads_or_files(self):
        for header in ("boost/asio.hpp", "hiredis/hiredis.h", "spdlog/spdlog.h", "zmq.hpp", "thread", "fstream", "sys/time.h"):
            self.assert_noticed("core", {"broker/core/life.cpp": f"#include <{header}>\n"})

    def test_the_core_may_not_read_a_clock_draw_random_numbers_or_throw(self):
        for text in ("auto t = steady_clock::now();", "std::random_device d;", "throw 1;", '#include <cstdlib>\nauto h = std::getenv("HOME");'):
            self.assert_noticed("core", {"broker/core/life.cpp": text + "\n"})

    def test_executors_build_on_a_bare_machine(self):
        for header in ("zmq.h", "boost/asio.hpp", "hiredis/read.h", "msgpack.hpp"):
            self.assert_noticed("executors", {"worker/executors/x.cpp": f"#include <{header}>\n"})
            self.assert_noticed("executors", {"worker/child/x.h": f"#include <{header}>\n"})

    def test_executors_may_not_see_the_wire_or_the_session(self):
        self.assert_noticed("executors", {"worker/executors/x.cpp": '#include "common/wire/codec.h"\n'})
        self.assert_noticed("executors", {"worker/child/x.cpp": '#include "worker/session/session.h"\n'})

    def test_a_target_links_only_downwards(self):
        for line in ("gpuq_a|broker/core|gpuq_wire", "gpuq_a|common/net|gpuq_core", "gpuq_a|worker/session|gpuq_child",
                     "gpuq_a|worker/executors|gpuq_wire", "gpuq_a|client/lib|gpuq_store", "gpuq_a|broker/store|gpuq_client",
                     "gpuq_a|broker/core|hiredis", "gpuq_a|worker/executors|PkgConfig::libzmq", "gpuq_a|elsewhere|gpuq_core"):
            self.assert_noticed("links", graph=GRAPH + line + "\n")

    def test_nothing_new_lies_at_the_top(self):
        self.assert_noticed("top level", {"notes.txt": "x\n"})
        self.assert_noticed("top level", {"scripts/run.sh": "x\n"})

    def test_public_headers_show_no_third_party_and_no_inner_header(self):
        self.assert_noticed("public", {"client/include/gpuq/job.h": "#include <zmq.hpp>\n"})
        self.assert_noticed("public", {"client/include/gpuq/job.h": '#include "common/vocabulary/ids.h"\n'})

    def test_every_error_code_is_explained_and_no_other(self):
        page = CLEAN["ARCHITECTURE.md"]
        self.assert_noticed("errors", {"ARCHITECTURE.md": page.replace("| `NO_FIT` | fits nowhere |\n", "")})
        self.assert_noticed("errors", {"ARCHITECTURE.md": page + "| `NO_SUCH` | never |\n"})

    def test_what_a_file_uses_it_includes(self):
        self.assert_noticed("own needs", {"worker/executors/x.h": "std::int64_t x;\n"})
        self.assert_noticed("own needs", {"worker/executors/x.cpp": '#include "worker/child/frame.h"\nint x = std::min(1, 2);\n', "worker/child/frame.h": "#include <cstdint>\n"})
        self.assertEqual([], self.breaches({"worker/executors/x.cpp": '#include "worker/child/frame.h"\nstd::int64_t x;  // not std::min(\n', "worker/child/frame.h": "#include <cstdint>\n"}))


if __name__ == "__main__":
    unittest.main()

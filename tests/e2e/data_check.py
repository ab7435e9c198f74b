"""gpuq fsck, as an operator meets it: while the queue runs, after it stopped, with a blob that a disk spoilt, with a record that is odd."""
import json
import subprocess
import unittest

from gpuq_up import BIN, Home, until


class DataCheck(unittest.TestCase):
    def setUp(self):
        self.home = Home(BIN)
        self.addCleanup(self.home.remove)
        self.addCleanup(self.home.down)

    def fsck(self, *words, code):
        done = self.home.gpuq("fsck", *words)
        self.assertEqual(done.returncode, code, done.stdout + done.stderr)
        return done

    def redis(self, *words):
        """One command to the data of a broker that does not run, through a server of our own on its files."""
        folder = self.home.data / "redis"
        server = subprocess.Popen(["redis-server", "--port", "0", "--unixsocket", "s", "--dir", ".", "--appendonly", "yes", "--appendfsync", "always", "--save", ""],
                                  cwd=folder, stdout=subprocess.DEVNULL)
        try:
            ask = ["redis-cli", "-s", str(folder / "s")]
            until(lambda: subprocess.run([*ask, "EXISTS", "gpuq:{default}:term"], capture_output=True, text=True).stdout.strip() == "1", "the data is loaded")
            return subprocess.run([*ask, *words], capture_output=True, text=True, check=True).stdout.strip()
        finally:
            server.terminate()
            server.wait()

    def test_an_operators_day(self):
        home = self.home
        self.assertIn("error[NOT_FOUND]: there is no gpuq data in", self.fsck(code=3).stderr)
        home.up()
        job = json.loads(home.gpuq("submit", "--wait", "-o", "jsonl", "--", "sh", "-c", "echo hi > $GPUQ_OUTPUT_DIR/x").stdout)["id"]
        later = home.gpuq("submit", "echo", "--not-before", "1h").stdout.split()[0]
        self.assertIn("error[DATA_DIR_IN_USE]", self.fsck(code=5).stderr)
        home.down()

        whole = self.fsck("--deep", code=0).stdout
        self.assertIn("2 jobs (1 waiting, 1 succeeded)", whole)
        self.assertIn("whole: no damage, every blob read, the scheduler accepts it", whole)

        # the waiting job is lost to its set; its record says what it is
        self.assertEqual(self.redis("ZREM", "gpuq:{default}:waiting", later), "1")
        found = json.loads(self.fsck("-o", "json", code=1).stdout)
        self.assertEqual([f["kind"] for f in found["findings"]], ["in_no_set"])
        self.assertIn("nothing was changed", self.fsck(code=1).stdout)
        repaired = self.fsck("--repair", code=0).stdout
        self.assertIn("repaired: filed under waiting", repaired)
        self.assertIn("1 damage, 1 repaired; read again: whole", repaired)

        # a record that no broker can read: the broker says what to do, the repair puts it aside, the rest goes on
        self.redis("SET", f"gpuq:{{default}}:j:{job}", "odd")
        up = home.gpuq("up", "--port", "0")
        self.assertNotEqual(up.returncode, 0)
        self.assertIn("gpuq fsck", up.stdout + up.stderr)
        self.assertIn("damage[bad_record]", self.fsck("--repair", code=0).stdout)
        self.assertIn("note[quarantined]", self.fsck(code=0).stdout)
        home.up()
        self.assertEqual(json.loads(home.gpuq("status", later, "-o", "json").stdout)["jobs"][0]["state"], "waiting")
        self.assertEqual(home.gpuq("status", job).returncode, 3)

    def test_a_blob_that_a_disk_spoilt(self):
        home = self.home
        (home.root / "m").mkdir()
        (home.root / "m/model.toml").write_text('entry = "m:M"\n')
        (home.root / "m/m.py").write_text("class M:\n    def setup(self, ctx): pass\n    def predict(self, requests): return requests\n")
        home.up()
        pushed = home.gpuq("model", "push", "m", "m", "--no-promote")
        self.assertEqual(pushed.returncode, 0, pushed.stderr)
        home.down()
        self.fsck("--deep", code=0)
        [blob] = [p for p in (home.data / "blobs").rglob("*") if p.is_file()]
        blob.write_bytes(b"x" + blob.read_bytes()[1:] + b"y")
        self.fsck(code=0)   # its name is there; only --deep reads it
        self.assertIn("damage[bad_blob]", self.fsck("--deep", code=1).stdout)
        self.assertIn("1 repaired, 1 left", self.fsck("--deep", "--repair", code=1).stdout)
        self.assertTrue((home.data / "blobs/quarantine" / blob.name).is_file())
        self.assertIn("push it again", self.fsck(code=1).stdout)
        home.up()
        again = home.gpuq("model", "push", "m", "m", "--no-promote")
        self.assertEqual(again.returncode, 0, again.stderr)
        home.down()
        self.fsck("--deep", code=0)


if __name__ == "__main__":
    unittest.main(verbosity=2)

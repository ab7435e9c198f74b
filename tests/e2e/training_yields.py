#!/usr/bin/env python3
"""training_yields.py BIN - a real train.detector on the CPU leaves its memory to detect jobs and ends with the weights of an undisturbed run."""
import hashlib
import json
import random
import struct
import unittest
import zlib

from gpuq_up import UpStory, until

# The model (1 GiB) does not fit beside the training (2 GiB), nor the training beside the model: both must give way once.
POLICY = '[policy]\nmodel_idle_min = "200ms"\n[class.training]\nmin_run = "0s"\npause_for = ["inference"]\n'
STEPS = 60


def png(width, height, rows):
    chunk = lambda kind, data: struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    raw = b"".join(b"\0" + row for row in rows)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")


def draw_boards(folder, count, size=192):
    """White boards with black blots, in the DeepPCB layout."""
    folder.mkdir()
    draw = random.Random(7)
    for i in range(count):
        rows = [bytearray(b"\xff" * size) for _ in range(size)]
        labels = []
        for _ in range(4):
            w, h = draw.randrange(16, 40), draw.randrange(16, 40)
            x, y = draw.randrange(size - w), draw.randrange(size - h)
            for row in rows[y:y + h]:
                row[x:x + w] = bytes(w)
            labels.append(f"{x} {y} {x + w} {y + h} {draw.randrange(1, 7)}")
        (folder / f"board{i:02}_test.png").write_bytes(png(size, size, rows))
        (folder / f"board{i:02}.txt").write_text("\n".join(labels) + "\n")


class TrainingYields(UpStory):
    gpus = ""
    up_words = ("--devices", "cpu", "--worker-option", "--cpu-memory", "--worker-option", "2560MiB")
    policy = POLICY

    def train(self, data="boards", *options):
        words = [f"--set={key}={value}" for key, value in {"steps": STEPS, "batch": 2, "imgsz": 64, "amp": "off", "seed": 3, "checkpoint_every": 0, "val_fraction": 0}.items()]
        return self.submitted("train.detector", *options, *words, self.home.root / data)

    def weights_of(self, job):
        """The hash of the tensors in its artefact: all bytes behind the header, which also tells of speed and time."""
        self.assert_ran(self.gpuq("wait", job, "--timeout", "120s", timeout=150))
        folder = self.home.root / job
        self.assert_ran(self.gpuq("result", job, "--part", "model", "-d", folder))
        file, = (path for path in folder.rglob("*") if path.is_file())
        data = file.read_bytes()
        return hashlib.sha256(data[8 + struct.unpack("<Q", data[:8])[0]:]).hexdigest()

    def test_a_training_beside_inference_stands_still_and_ends_with_the_weights_of_one_that_was_alone(self):
        draw_boards(self.home.root / "held", 12)
        training = self.train("held", "--vram", "2GiB")   # room for both
        until(lambda: 5 <= self.status(training)["progress_step"] < STEPS, "it trains")
        serving = self.submitted("--class", "inference", "--vram", "64MiB", "--", "sh", "-c", "while [ ! -e served ]; do sleep 0.02; done")
        until(lambda: self.status(training)["metrics"].get("paused") == 1, "it stands still")
        self.assertEqual(self.status(serving)["state"], "running")
        (self.home.root / "served").touch()
        held = self.weights_of(training)
        done = self.status(training)
        self.assertEqual((done["attempt"], done["preemptions"]), (1, 0), done)
        self.assertGreater(done["metrics"]["paused_s"], 0)
        alone = self.train("held")
        self.assertEqual(held, self.weights_of(alone), "bit by bit")

    def test_a_training_that_gave_way_to_detect_jobs_ends_with_the_weights_of_one_that_did_not(self):
        draw_boards(self.home.root / "boards", 12)
        undisturbed = self.train()
        weights = self.weights_of(undisturbed)
        self.assertEqual(self.status(undisturbed)["preemptions"], 0)
        self.assert_ran(self.gpuq("model", "push", "boards", "--from", undisturbed))

        training = self.train()
        until(lambda: 5 <= self.status(training)["progress_step"] < STEPS, "it trains")
        images = sorted((self.home.root / "boards").glob("*.png"))[:4]
        ran = self.assert_ran(self.gpuq("submit", "detect", "--model", "boards", *images, "--wait", "-o", "json", timeout=120))
        results = json.loads(ran.stdout)["results"]
        self.assertEqual([r["state"] for r in results], ["succeeded"] * len(images))
        left = until(lambda: (lambda s: s if s["preemptions"] == 1 else None)(self.status(training)), "its checkpoint is on disk")
        self.assertEqual(left["evictions"], 1, left)
        self.assertIn(left["leave_for"], [r["id"] for r in results], "status says for whom it left")
        self.assertTrue(0 < left["checkpoint_step"] < STEPS, left)

        again = self.weights_of(training)
        done = self.status(training)
        self.assertEqual((done["state"], done["attempt"], done["failures"], done["losses"]), ("succeeded", 2, 0, 0))
        self.assertEqual(again, weights, "bit by bit")


if __name__ == "__main__":
    unittest.main(verbosity=2)

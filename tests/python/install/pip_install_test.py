"""`pip install client/python` in a fresh environment: the package works, is typed, and job and serve come along."""
import os
import pathlib
import subprocess
import sys

SOURCE = pathlib.Path(os.environ["GPUQ_SOURCE_DIR"])


def test_pip_installs_the_package_whole(tmp_path):
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}

    def ran(*words):
        done = subprocess.run([str(word) for word in words], env=env, capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0, f"{words}\n{done.stdout}{done.stderr}"
        return done.stdout
    # A copy: setuptools writes beside what it builds. Without isolation: this environment's setuptools, no network.
    ran("cp", "-r", SOURCE / "client/python", "source")
    ran(sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--no-build-isolation", "--target", tmp_path / "site", tmp_path / "source")
    site = tmp_path / "site"
    there = {str(path.relative_to(SOURCE / "client/python")) for path in (SOURCE / "client/python/gpuq").rglob("*")
             if path.suffix == ".py" or path.name == "py.typed"}
    missing = {name for name in there if not (site / name).exists()}
    assert not missing
    env["PYTHONPATH"] = str(site)
    assert ran(sys.executable, "-c", "import gpuq, gpuq.job; print(gpuq.Client.__module__, gpuq.__file__)").split() == ["gpuq.client", str(site / "gpuq/__init__.py")]
    about, = site.glob("gpuq-*.dist-info/METADATA")
    text = about.read_text()
    assert "Requires-Dist: pyzmq" in text and "Requires-Dist: msgpack" in text and "Requires-Python: >=3.9" in text

"""The environment that the other Python tests run in is the one that requirements.txt asks for."""
import importlib.metadata
import os
import pathlib

from packaging.requirements import Requirement

REQUIREMENTS = pathlib.Path(os.environ["GPUQ_SOURCE_DIR"]) / "tests/python/requirements.txt"


def test_every_requirement_is_pinned_and_installed_in_that_version():
    lines = [line for line in REQUIREMENTS.read_text().splitlines() if line and not line.startswith("#")]
    assert lines
    for requirement in map(Requirement, lines):
        assert str(requirement.specifier).startswith("=="), f"{requirement} is not pinned"
        if requirement.marker is None or requirement.marker.evaluate():
            assert importlib.metadata.version(requirement.name) in requirement.specifier, requirement

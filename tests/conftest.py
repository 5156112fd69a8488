"""How the tests run: Hypothesis without time limits per example, with the same draws each time in CI; Ctrl-C heard.

A shell that runs the tests in the background has them ignore SIGINT, and every process that a test starts with them.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import settings

from . import tiny

settings.register_profile("local", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "local")

signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def start() -> Iterator[Any]:
    """Start `minibloom train`; whatever happens, nothing runs on after the test."""
    started = []

    def starter(*arguments: Any) -> subprocess.Popen[bytes]:
        started.append(tiny.start(*arguments))
        return started[-1]

    yield starter
    for process in started:
        process.kill()
        process.communicate()

"""How the tests run: Hypothesis without time limits per example, with the same draws each time in CI; Ctrl-C heard.

A shell that runs the tests in the background has them ignore SIGINT, and every process that a test starts with them.
"""

from __future__ import annotations

import os
import signal

from hypothesis import settings

settings.register_profile("local", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "local")

signal.signal(signal.SIGINT, signal.default_int_handler)

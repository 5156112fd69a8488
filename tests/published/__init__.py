"""What other projects publish of the real BLOOM checkpoints, held against minibloom, where the hub can be reached.

`figures.py` is what they publish, `checks.py` how it is checked, `test_published.py` runs the one on the other with
checkpoints from the hub, and `test_checks.py` proves both on stand-ins, with a hub on this machine.
"""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite(f"{__name__}.checks")  # so that a failure shows the numbers

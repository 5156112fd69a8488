"""minibloom held against the oracle, transformers 5.23 on torch. The extra `parity` installs it; skipped without."""

NOT_INSTALLED = "the oracle, transformers 5.23 on torch, is not installed: pip install '.[parity]'"

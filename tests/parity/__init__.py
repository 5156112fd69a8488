"""minibloom held against the oracle, transformers 5.23 on torch. Installed by the extra `parity`; skipped without."""

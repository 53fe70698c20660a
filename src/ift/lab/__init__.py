"""Comparisons, benchmarks, judges, reports, the testbed, Frozen Lake and the demo."""

"""Everything that measures: comparisons, benchmarks, judges, reports, the testbed, Frozen Lake, the demo."""

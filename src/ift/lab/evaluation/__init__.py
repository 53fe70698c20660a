"""The paper's benchmarks on any model: lm-eval underneath, answers to be judged, judges."""

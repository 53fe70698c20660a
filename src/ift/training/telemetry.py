"""Disables trl's telemetry; tests/training/test_contract.py checks that trl still calls the method."""

from __future__ import annotations


class NoTelemetry:
    """Mixin for trl trainers, which otherwise report every new trainer to the Hub."""

    def _send_telemetry(self) -> None:
        """Does nothing."""

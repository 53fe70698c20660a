"""Disables trl's telemetry; tests/training/test_contract.py checks that trl still calls the method."""

from __future__ import annotations


class NoTelemetry:
    """Mixin before a trl trainer: without it, trl reports every trainer that is created to the Hub."""

    def _send_telemetry(self) -> None:
        """Does nothing."""

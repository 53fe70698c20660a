"""Internals of trl that a trainer touches; tests/training/test_contract.py checks each of them."""

from __future__ import annotations


class SendsNothing:
    """Mixin before a trl trainer: nothing is reported to the Hub; trl sends a ping for every trainer that is made."""

    def _send_telemetry(self) -> None:
        """Instead of trl's."""

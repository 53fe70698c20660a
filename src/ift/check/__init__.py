"""What can be known before a run: of its rows, of its memory."""

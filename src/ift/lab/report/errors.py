"""The one error of this room: what is wrong with records, and the fix."""


class ReportError(ValueError):
    """Records that cannot be read, saved or compared. The message names file and key, what was found, and the fix."""

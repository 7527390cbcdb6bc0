"""How does a stage report that it cannot continue?"""


class StageError(RuntimeError):
    """The stage cannot continue. The message is one line: what is missing or failed, and what to do."""

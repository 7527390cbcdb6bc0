"""How does a stage say that it cannot go on?"""


class StageError(RuntimeError):
    """Says in one line what is missing or what failed, and what to do."""

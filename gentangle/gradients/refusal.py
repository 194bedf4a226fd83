"""What the engine says of a model that it cannot take."""

from gentangle.errors import InputError

ORACLE = 'take method="oracle"'


class EngineRefusal(InputError):
    """The model or the scalars are not of the kind that hooks can follow; the oracle can take them.

    The message names what stood in the way and ends with that advice.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(f"{reason}: {ORACLE}.")

"""What is well or not, told when that changes."""

import logging


class Condition:
    """Something that the relay or a node depends on."""

    def __init__(self, logger: logging.Logger, name: str) -> None:
        """Take where to tell it; at first all is well."""
        self._logger = logger
        self._name = name
        self._trouble: str | None = None

    def note(self, trouble: str | None, reason: str = "") -> None:
        """Log what is wrong, or that nothing is, when that changes; not each time, nor when only the reason does."""
        if trouble != self._trouble and trouble is None:
            self._logger.info("%s: all is well", self._name)
        elif trouble != self._trouble:
            self._logger.warning("%s: %s%s", self._name, trouble, reason and f" ({reason})")
        self._trouble = trouble

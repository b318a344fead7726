"""Log a dependency's health when it changes."""

import logging


class HealthLog:
    """The last known health of one dependency, healthy at first."""

    def __init__(self, logger: logging.Logger, name: str) -> None:
        self._logger = logger
        self._name = name
        self._trouble: str | None = None

    def note(self, trouble: str | None, reason: str = "") -> None:
        """Log the trouble, or None for its end, unless it is the last one again; a new reason alone is not logged."""
        if trouble != self._trouble and trouble is None:
            self._logger.info("%s: all is well", self._name)
        elif trouble != self._trouble:
            self._logger.warning("%s: %s%s", self._name, trouble, reason and f" ({reason})")
        self._trouble = trouble

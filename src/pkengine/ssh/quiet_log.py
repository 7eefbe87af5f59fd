"""What conch logs: it tells of every message at level "info"; what it finds wrong is enough."""

from __future__ import annotations

from twisted.logger import Logger, LogLevel


class _QuietLogger(Logger):
    """Drops what is below a warning, before an event or a logger of its own is made for it."""

    def __get__(self, instance: object, owner: type | None = None) -> Logger:
        return self

    def emit(self, level: LogLevel, format: str | None = None, **kwargs: object) -> None:
        if level >= LogLevel.warn:
            super().emit(level, format, **kwargs)


QUIET_LOG = _QuietLogger("pkengine.ssh")

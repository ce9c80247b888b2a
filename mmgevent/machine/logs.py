"""Loggers of this package: whatever a peer says is one harmless line in any log."""

from __future__ import annotations

import logging
import traceback

from mmgevent.shown_text import MAX_LINES, shown


def get_log(name: str) -> logging.Logger:
    """Return the logger of a module of ours. Its records are fit to be shown, by any handler.

    The check is a filter of the logger: programs choose handlers and formats as they like.
    """
    logger = logging.getLogger(name)
    if _make_fit not in logger.filters:
        logger.addFilter(_make_fit)
    return logger


def _make_fit(record: logging.LogRecord) -> bool:
    text = record.getMessage()
    fit = shown(text)
    if fit != text:
        record.msg, record.args = fit, ()
    if record.exc_info:
        # Formatters of the standard library take this text instead of making their own.
        record.exc_text = shown("".join(traceback.format_exception(*record.exc_info)).rstrip("\n"), MAX_LINES)
    return True

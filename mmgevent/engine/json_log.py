"""Log records as JSON: one object a line, for programs that collect logs."""

from __future__ import annotations

import json
import logging
import time

from mmgevent.shown_text import MAX_LINES, shown


class JsonLogLines(logging.Formatter):
    """Each record is one line: time (UTC), level, logger, process, message, and a traceback if any."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line = {
            "time": f"{moment}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "pid": record.process,
            "message": record.getMessage(),
        }
        if record.exc_info or record.exc_text:
            line["traceback"] = shown(
                record.exc_text or self.formatException(record.exc_info or (None, None, None)), MAX_LINES
            )
        return json.dumps(line)

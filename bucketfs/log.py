"""Where log lines go: standard error in the foreground, syslog or a file in the background.

Every module logs to ``logging.getLogger("bucketfs.<module>")``; this module alone decides about
handlers, levels and format. Secrets told to `protect` are blotted out of every line, tracebacks
included, whoever wrote it.
"""

from __future__ import annotations

import errno
import json
import logging
import logging.handlers
import os
import re
import sys
import threading
import time
from io import TextIOWrapper
from pathlib import Path

from bucketfs import owned
from bucketfs.options import Options
from bucketfs.repeats import RepeatHandler

_LEVELS = {
    "critical": logging.CRITICAL,
    "error": logging.ERROR,
    "warning": logging.WARNING,
    "info": logging.INFO,
    "debug": logging.DEBUG,
}
_SYSLOG_SOCKET = "/dev/log"

#: Shorter values would blot out ordinary words.
_SHORTEST_SECRET = 6

_secrets: set[str] = set()
_lock = threading.Lock()


def protect(*secrets: str | None) -> None:
    """Keep these values out of every log line from now on."""
    with _lock:
        _secrets.update(s for s in secrets if s and len(s) >= _SHORTEST_SECRET)


def redact(text: str) -> str:
    """`text` with every protected value replaced by ``***``."""
    for secret in _secrets:
        if secret in text:
            text = text.replace(secret, "***")
    return text


#: syslog(3)'s numbers, which sd-daemon(3) wants before a line.
_PRIORITIES = (
    (logging.CRITICAL, 2),
    (logging.ERROR, 3),
    (logging.WARNING, 4),
    (logging.INFO, 6),
)
_DEBUG_PRIORITY = 7


#: What would end a line, or steer a terminal that shows it: C0 without the tab, DEL, and C1.
_CONTROLS = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]")


class LineFormatter(logging.Formatter):
    """A message is one line, so that no name of an object can forge another; tracebacks follow."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        record.message = _CONTROLS.sub(
            lambda found: found[0].encode("unicode_escape").decode(), record.message
        )
        return super().formatMessage(record)


class JournalFormatter(logging.Formatter):
    """``<4>message``: systemd's journal takes the priority, and adds time, unit and name itself."""

    def __init__(self, inner: logging.Formatter) -> None:
        super().__init__()
        self._inner = inner

    def format(self, record: logging.LogRecord) -> str:
        priority = next((to for at, to in _PRIORITIES if record.levelno >= at), _DEBUG_PRIORITY)
        lines = redact(self._inner.format(record)).splitlines()
        return "\n".join(f"<{priority}>{line}" for line in lines)


class PlainFormatter(LineFormatter):
    """``2026-01-02T03:04:05 bucketfs[NAME] warning: …`` with parts left out on request."""

    def __init__(self, *, with_time: bool, ident: str) -> None:
        when = "%(asctime)s " if with_time else ""
        super().__init__(f"{when}{ident} %(levelname)s: %(message)s", "%Y-%m-%dT%H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message and, if any, the traceback."""

    def __init__(self, *, ident: str) -> None:
        super().__init__()
        self._ident = ident

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname.lower(),
            "ident": self._ident,
            "logger": record.name,
            "message": redact(record.getMessage()),
        }
        if record.exc_info:
            entry["traceback"] = redact(self.formatException(record.exc_info))
        return json.dumps(entry, ensure_ascii=False)


class LogFile(logging.handlers.WatchedFileHandler):
    """The file of ``logfile=``, opened anew when it was moved away.

    A new one has mode 600. Where others could have made it, only a file of this user's is written:
    no link, no pipe, nothing with a second name. Raises OSError otherwise.
    """

    def _open(self) -> TextIOWrapper:
        fd = _open_file(Path(self.baseFilename))
        return open(fd, "a", encoding=self.encoding, errors=self.errors)

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line; who logs does not fail with a file that cannot be opened anew."""
        try:
            super().emit(record)
        except OSError:
            self.handleError(record)


def _open_file(path: Path) -> int:
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
    if owned.is_closed(path.parent):  # /dev/stderr is a link that is wanted
        return os.open(path, flags, 0o600)
    try:
        fd = owned.open_file(path, flags)
    except owned.NotOwnError as error:
        raise OSError(error.errno, f"{error.why}; name one where only you can write") from None
    if os.fstat(fd).st_nlink > 1:
        os.close(fd)
        raise OSError(errno.EPERM, "it has another name elsewhere (a hard link)")
    return fd


def level_of(options: Options) -> int:
    """The threshold these options ask for; ``-d`` beats dbglevel, ``-f`` lowers the default."""
    if options.debug:
        return logging.DEBUG
    if options.foreground and options.dbglevel == "warning":
        return logging.INFO
    return _LEVELS[options.dbglevel]


def setup(options: Options) -> None:
    """Give the root logger its one handler. Raises OSError when logfile= cannot be opened."""
    ident = f"bucketfs[{options.instance_name or options.source}]"
    handler = _handler(options, ident)
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
        old.close()
    root.addHandler(RepeatHandler(handler))
    root.setLevel(logging.WARNING)
    logging.getLogger("bucketfs").setLevel(level_of(options))
    logging.captureWarnings(True)
    # An unprintable line must not write a traceback of its own to a closed standard error.
    logging.raiseExceptions = options.foreground


def set_level(level: str) -> None:
    """Log what is of this severity, as `Options.dbglevel` names it, and above."""
    logging.getLogger("bucketfs").setLevel(_LEVELS[level])


def _handler(options: Options, ident: str) -> logging.Handler:
    handler: logging.Handler
    with_time = not options.no_time_stamp_msg
    to_stderr = False
    if options.logfile:
        path = os.path.abspath(options.logfile)
        handler = LogFile(path, encoding="utf-8", errors="replace")
    elif options.foreground or not os.path.exists(_SYSLOG_SOCKET):
        handler = logging.StreamHandler(sys.stderr)
        to_stderr = True
    else:
        handler = logging.handlers.SysLogHandler(
            _SYSLOG_SOCKET, facility=logging.handlers.SysLogHandler.LOG_DAEMON
        )
        with_time = False
    formatter: logging.Formatter
    is_journal = to_stderr and _is_journal(sys.stderr.fileno())
    if options.log_format == "json":
        formatter = JsonFormatter(ident=ident)
    elif is_journal:
        formatter = LineFormatter("%(message)s")
    else:
        formatter = PlainFormatter(with_time=with_time, ident=ident)
    handler.setFormatter(JournalFormatter(formatter) if is_journal else formatter)
    return handler


def _is_journal(fd: int) -> bool:
    """Whether what is written there goes to systemd's journal (JOURNAL_STREAM, systemd.exec(5))."""
    found = os.fstat(fd)
    return os.environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


def _repeat_handlers() -> list[RepeatHandler]:
    return [each for each in logging.getLogger().handlers if isinstance(each, RepeatHandler)]


def tell_waiting() -> None:
    """Tell of lines that are repeated and followed by no other; to be called now and then."""
    for handler in _repeat_handlers():
        handler.tell_waiting(time.monotonic())


def flush() -> None:
    """Tell of all lines that are repeated: before a fork, and at the end."""
    for handler in _repeat_handlers():
        handler.flush()


def reopen() -> None:
    """Open the log file anew if it was moved away; what SIGHUP asks for."""
    for repeats in _repeat_handlers():
        handler = repeats.target
        if isinstance(handler, logging.handlers.WatchedFileHandler):
            handler.acquire()
            try:
                handler.reopenIfNeeded()
            except OSError:
                continue  # the next line tries again, and reports it
            finally:
                handler.release()

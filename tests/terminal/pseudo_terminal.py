"""A program on a pseudo-terminal, driven like a person would: for the tests and the README's check.

Only Python's own library. Nothing waits for a time, but for what is seen, with a limit.
"""

import fcntl
import os
import pty
import re
import select
import signal
import struct
import termios
import time

LIMIT_SECONDS = float(os.environ.get("PTY_LIMIT_SECONDS", "60"))
# What the editor and the styles may send: cursor moves, erasing, styles, paste on and off.
SEQUENCE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[=>78HMc]|\x1b\([B0]")


class Terminal:
    def __init__(self, command, environment, rows=24, columns=80):
        self.raw = b""
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.execvpe(command[0], command, environment)
        self.resize(rows, columns)

    def resize(self, rows, columns):
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def send(self, text):
        os.write(self.fd, text if isinstance(text, bytes) else text.encode())

    def _read(self, seconds):
        ready, _, _ = select.select([self.fd], [], [], seconds)
        if not ready:
            return False
        try:
            chunk = os.read(self.fd, 65536)
        except OSError:  # the other side is closed
            chunk = b""
        self.raw += chunk
        return bool(chunk)

    def text(self, since=0):
        """What came, without escape sequences and carriage returns."""
        return SEQUENCE.sub("", self.raw[since:].decode("utf-8", "replace")).replace("\r", "")

    def mark(self):
        return len(self.raw)

    def expect(self, pattern, since=0):
        """Waits until the text since a mark has the pattern; returns the text."""
        end = time.monotonic() + LIMIT_SECONDS
        while not re.search(pattern, self.text(since)):
            left = end - time.monotonic()
            if left <= 0 or (not self._read(min(left, 1)) and not self.alive()):
                raise AssertionError(f"no {pattern!r} in {self.raw[since:]!r}")
        return self.text(since)

    def settle(self, seconds=0.3):
        """Reads until nothing comes for a moment."""
        while self._read(seconds):
            pass

    def alive(self):
        if self.pid == 0:
            return False
        done, status = os.waitpid(self.pid, os.WNOHANG)
        if done:
            self.pid, self.status = 0, status
        return not done

    def wait(self):
        """Waits for its end; returns its exit status."""
        end = time.monotonic() + LIMIT_SECONDS
        while self.alive():
            self._read(0.05)
            if time.monotonic() > end:
                self.kill()
                raise AssertionError(f"it did not end; it had said {self.raw[-400:]!r}")
        while self._read(0):
            pass
        return os.waitstatus_to_exitcode(self.status)

    def kill(self):
        if self.alive():
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self.pid = 0
        os.close(self.fd)

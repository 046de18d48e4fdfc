"""A mail server that is played: real SMTP in, a Maildir on disk, and as much of IMAP as it takes to ask for a mail.

It delivers everything it accepts, also what it has already: that a report is sent once is not its doing.
"""

from __future__ import annotations

import email
import mailbox
import shlex
import socketserver
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from email.message import Message


class MailServer:
    """Keeps mail in the Maildir `folder`, durably before it says so. Any mail reader opens that folder.

    `on_mail` is called with "arrived" before a mail is kept and with "kept" before it is acknowledged, for tests that
    hold an answer back; what it raises breaks the connection.
    """

    def __init__(
        self, folder: Path, *, smtp_port: int = 0, imap_port: int = 0, on_mail: Callable[[str], None] = lambda _: None
    ) -> None:
        self._lock = threading.Lock()
        self._maildir = mailbox.Maildir(folder)
        self.on_mail = on_mail
        self._servers = [_Listener(("127.0.0.1", smtp_port), _Smtp), _Listener(("127.0.0.1", imap_port), _Imap)]
        for server in self._servers:
            server.mail = self
        self.smtp, self.imap = (("127.0.0.1", int(server.server_address[1])) for server in self._servers)

    def start(self) -> None:
        """Serve in threads of their own."""
        for server in self._servers:
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def close(self) -> None:
        """Stop listening; the mail stays."""
        for server in self._servers:
            server.shutdown()
            server.server_close()

    def keep(self, data: bytes) -> None:
        """Accept one mail."""
        self.on_mail("arrived")
        with self._lock:
            self._maildir.add(data)
        self.on_mail("kept")

    def messages(self) -> list[Message]:
        """Everything that was accepted, in no order."""
        with self._lock:
            return [email.message_from_bytes(self._maildir.get_bytes(key)) for key in self._maildir.keys()]  # noqa: SIM118 - iterates over messages otherwise


class _Listener(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    mail: MailServer


class _Lines(socketserver.StreamRequestHandler):
    timeout = 60
    server: _Listener

    def say(self, *lines: str) -> None:
        self.wfile.write("".join(f"{line}\r\n" for line in lines).encode())

    def words(self, line: bytes) -> list[str]:
        try:
            return shlex.split(line.decode(errors="replace"))
        except ValueError:
            return []

    def handle(self) -> None:
        try:
            self.serve()
        except OSError:  # the client is gone
            return

    def serve(self) -> None:
        raise NotImplementedError


class _Smtp(_Lines):
    def serve(self) -> None:
        self.say("220 mail.example")
        for line in self.rfile:
            match [word.upper() for word in self.words(line)[:1]]:
                case ["DATA"]:
                    self.say("354 end with a dot")
                    data = self._data()
                    if data is None:
                        return
                    self.server.mail.keep(data)
                    self.say("250 kept")
                case ["EHLO" | "HELO" | "MAIL" | "RCPT" | "RSET" | "NOOP"]:
                    self.say("250 mail.example")
                case ["QUIT"]:
                    self.say("221 mail.example")
                    return
                case _:
                    self.say("502 not played")

    def _data(self) -> bytes | None:
        """The mail; None when the client went away before its end."""
        lines: list[bytes] = []
        for line in self.rfile:
            if line == b".\r\n":
                return b"".join(lines)
            lines.append(line[1:] if line.startswith(b".") else line)
        return None


class _Imap(_Lines):
    def serve(self) -> None:
        self.say("* PREAUTH mail.example")
        for line in self.rfile:
            tag, *words = self.words(line) or ["*"]
            found = self.server.mail.messages()
            match [word.upper() for word in words[:1]]:
                case ["CAPABILITY"]:
                    self.say("* CAPABILITY IMAP4rev1", f"{tag} OK done")
                case ["SELECT" | "EXAMINE"]:
                    self.say(f"* {len(found)} EXISTS", f"{tag} OK [READ-ONLY] done")
                case ["SEARCH"] if [word.upper() for word in words[1:2]] == ["HEADER"] and len(words) == 4:
                    numbers = [n for n, mail in enumerate(found, 1) if words[3] in str(mail.get(words[2], ""))]
                    self.say(" ".join(["* SEARCH", *map(str, numbers)]), f"{tag} OK done")
                case ["LOGOUT"]:
                    self.say("* BYE mail.example", f"{tag} OK done")
                    return
                case ["CLOSE" | "UNSELECT" | "NOOP"]:
                    self.say(f"{tag} OK done")
                case _:
                    self.say(f"{tag} BAD not played")


def main() -> None:
    folder, smtp_port, imap_port = sys.argv[1:]
    MailServer(Path(folder), smtp_port=int(smtp_port), imap_port=int(imap_port)).start()
    threading.Event().wait()


if __name__ == "__main__":
    main()

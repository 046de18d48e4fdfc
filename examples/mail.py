"""E-mail as a tool of an agent: sent by SMTP, and asked for by IMAP when nobody knows whether it was."""

from __future__ import annotations

import imaplib
import smtplib
import time
from contextlib import closing, suppress
from email.message import EmailMessage
from email.policy import SMTP
from typing import Any

from relight.errors import UnavailableError
from relight.tasks.effects import Answer, NotSentError, RefusedError

SENDER = "researcher@agent.example"


class Mail:
    """Sends mail whose Message-ID is the idempotency key, so that a mailbox can be asked whether it has it.

    `imap` is where sent mail can be looked up, None where it cannot: then a crash while sending leaves an effect that
    waits for a person. `timeout_s` must be longer than the server takes to accept or drop what it was given. Against a
    real server that is minutes, and the two connections are `SMTP_SSL` and `IMAP4_SSL` with a login.
    """

    name = "mail"
    honours_keys_s = 0.0  # SMTP delivers the same Message-ID twice

    def __init__(
        self, *, smtp: tuple[str, int], imap: tuple[str, int] | None, mailbox: str = "INBOX", timeout_s: float = 5.0
    ) -> None:
        self.timeout_s = timeout_s
        self._smtp = smtp
        self._imap = imap
        self._mailbox = mailbox

    def send(self, request: dict[str, str], *, key: str) -> dict[str, str]:
        """Hand the mail to the server. Up to the final dot nothing was sent; an answer that is lost after it leaves
        that open."""
        until = time.monotonic() + 0.8 * self.timeout_s
        data = _message(request, key).as_bytes(policy=SMTP.clone(cte_type="7bit"))
        try:
            smtp = smtplib.SMTP(*self._smtp, local_hostname="localhost", timeout=0.8 * self.timeout_s)
        except (OSError, smtplib.SMTPException) as exc:
            raise NotSentError(f"the mail server cannot be reached: {type(exc).__name__}") from exc
        with closing(smtp):
            try:
                _bound(smtp, until)
                _expect(*smtp.ehlo())
                _bound(smtp, until)
                _expect(*smtp.mail(SENDER))
                _bound(smtp, until)
                _expect(*smtp.rcpt(request["to"]))
                _bound(smtp, until)
            except (OSError, smtplib.SMTPException) as exc:
                raise NotSentError(f"the mail server broke off: {type(exc).__name__}") from exc
            try:
                _expect(*smtp.data(data))
            except smtplib.SMTPDataError as exc:  # it does not want to hear the mail
                _expect(exc.smtp_code, exc.smtp_error)
            with suppress(OSError, smtplib.SMTPException):
                smtp.quit()
        return {"message_id": _message_id(key)}

    def find(self, request: dict[str, str], *, key: str) -> Any | Answer:  # noqa: ARG002 - found by its Message-ID
        """Ask the mailbox."""
        if self._imap is None:
            return Answer.CANNOT_TELL
        try:
            with imaplib.IMAP4(*self._imap, timeout=self.timeout_s) as imap:
                imap.select(self._mailbox, readonly=True)
                status, found = imap.search(None, "HEADER", "Message-ID", f'"{_message_id(key)}"')
        except (OSError, imaplib.IMAP4.error) as exc:
            raise UnavailableError(f"the mailbox cannot be asked: {type(exc).__name__}") from exc
        if status != "OK":
            return Answer.CANNOT_TELL
        return {"message_id": _message_id(key)} if found and found[0] else Answer.NOT_SENT


def _message_id(key: str) -> str:
    # Half of the key says as much, and no server folds the line.
    return f"<{key[:32]}@{SENDER.partition('@')[2]}>"


def _message(request: dict[str, str], key: str) -> EmailMessage:
    message = EmailMessage(policy=SMTP)
    message["From"], message["To"], message["Subject"] = SENDER, request["to"], request["subject"]
    message["Message-ID"] = _message_id(key)
    message.set_content(request["body"])
    return message


def _expect(code: int, answer: bytes | str) -> None:
    """Go on when the server agreed; otherwise it certainly sent nothing."""
    text = f"the mail server said {code} {answer if isinstance(answer, str) else answer.decode(errors='replace')}"
    if code >= 500:
        raise RefusedError(text, hint="it will say so again: look at the address and the text")
    if code >= 400:
        raise NotSentError(text)


def _bound(smtp: smtplib.SMTP, until: float) -> None:
    """All commands together end in time."""
    if smtp.sock is None:
        raise smtplib.SMTPServerDisconnected("the connection is gone")
    smtp.sock.settimeout(max(0.01, until - time.monotonic()))

"""Whose a thinking block is, written into its signature.

What a model thought is signed, and only the model that thought it takes it back. The client keeps the conversation,
and the gateway keeps nothing, so the mark travels with the block: `relight.<provider and model>.<what was signed>`. It
is no secret and proves nothing: the provider checks its own signature behind it.
"""

from __future__ import annotations

import base64
import binascii
import json

_PREFIX = "relight."


def marked(signed: str, *, provider: str, model: str) -> str:
    """What the client is given in place of `signed`."""
    whose = base64.urlsafe_b64encode(json.dumps([provider, model]).encode()).decode().rstrip("=")
    return f"{_PREFIX}{whose}.{signed}"


def unmarked(text: str) -> tuple[str, str, str] | None:
    """The provider, the model and what was signed; None when the mark is not ours, so that nobody knows whose it is."""
    if not text.startswith(_PREFIX):
        return None
    whose, dot, signed = text.removeprefix(_PREFIX).partition(".")
    try:
        found = json.loads(base64.b64decode(whose + "=" * (-len(whose) % 4), altchars=b"-_", validate=True))
        provider, model = found
    except (binascii.Error, ValueError, TypeError):
        return None
    if not dot or not isinstance(provider, str) or not isinstance(model, str):
        return None
    return provider, model, signed

"""New names: for rows, and for those who come in."""

import secrets

import uuid_utils


def new_id() -> str:
    """Make a UUIDv7: ids sort by the time they were made."""
    return str(uuid_utils.uuid7())


def new_key() -> str:
    """Make an API key: 256 random bits."""
    return f"nh_{secrets.token_urlsafe(32)}"

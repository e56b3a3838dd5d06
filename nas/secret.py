"""Passwords of database addresses, kept out of whatever is printed or written."""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import unquote, unquote_plus

HIDDEN = "***"
"""What stands in the place of a secret."""
_URL = re.compile(r"(?P<head>[A-Za-z][A-Za-z0-9+.-]{0,60}://)(?P<rest>[^\s'\"<>`]*)")
_LEAST = 4
"""Shorter secrets are hidden where they stand, but not looked for elsewhere: they may be a part of any word."""
_TELLING = re.compile("pass|pwd|key|secret|token|auth|cred", re.IGNORECASE)
"""What of a query is looked for elsewhere, by its name: ``sslmode=require`` is hidden where it stands alone."""


def hidden(text: str, urls: Iterable[str] = ()) -> str:
    """Return a text in which no address shows its password, or what stands behind its question mark.

    Whatever looks like an address is treated so. The passwords of addresses that are known are looked for beyond that,
    as a driver may put its own words round them.

    Args:
        text: Any text.
        urls: Addresses whose secrets must not show anywhere.
    """
    for url in urls:
        text = text.replace(url, shown(url))
        for secret in sorted(secrets(url), key=len, reverse=True):
            text = text.replace(secret, HIDDEN)
    return _URL.sub(lambda match: match["head"] + _without(match["rest"]), text)


def shown(url: str) -> str:
    """Return a database's address as it may be shown; of what is no address, what might be a password is hidden."""
    head, sign, rest = url.partition("://")
    if sign:
        return head + sign + _without(rest)
    name, at, place = url.rpartition("@")
    if at:  # somebody forgot a slash, or the whole beginning
        return f"{name.partition(':')[0]}:{HIDDEN}@{place.partition('?')[0]}"
    return url.partition("?")[0] + (f"?{HIDDEN}" if "?" in url else "")


def secrets(url: str) -> set[str]:
    """Return the secrets of an address, as they stand there and as a driver gets them."""
    _, _, rest = url.partition("://")
    place, _, query = (rest or url).partition("?")
    name, at, _ = place.rpartition("@")
    found = {name.partition(":")[2]} if at else set()
    if not at and "@" in (rest or url):  # a password with a question mark in it
        found.add((rest or url).rpartition("@")[0].partition(":")[2])
    pairs = (part.partition("=") for part in query.split("&"))
    found |= {value for key, _, value in pairs if _TELLING.search(key)}
    found |= {unquote(each) for each in found} | {unquote_plus(each) for each in found}
    return {each for each in found if len(each) >= _LEAST}


def _without(rest: str) -> str:
    """Return what follows the ``://`` of an address without secrets."""
    name, at, place = rest.rpartition("@")
    if at:
        user, colon, _ = name.partition(":")
        name = user + (f":{HIDDEN}" if colon else "")
    place, question, query = place.partition("?")
    if question:
        keys = "&".join(f"{part.partition('=')[0]}={HIDDEN}" if "=" in part else HIDDEN for part in query.split("&"))
        place = f"{place}?{keys}"
    return name + at + place

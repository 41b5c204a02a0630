"""Import aiohttp without the host's certificates.

At its import aiohttp makes two TLS contexts for clients that bring none, each with every certificate that the host
trusts: 40 ms and 2 MiB of an engine whose own clients all bring theirs.  In the engine's process these two stay without
certificates, so a client that forgot to bring one is refused by every server, rather than let through.
"""

import ssl


def import_aiohttp() -> None:
    """To be called before anything else imports it; has no effect after that."""
    # A subclass in Python of a type in C: what is set here hides the type's own method until it is deleted.
    ssl.SSLContext.set_default_verify_paths = _load_nothing  # type: ignore[assignment,method-assign]
    try:
        import aiohttp.connector  # noqa: F401
    finally:
        del ssl.SSLContext.set_default_verify_paths


def _load_nothing(_: ssl.SSLContext) -> None:
    return None

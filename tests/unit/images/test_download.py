"""Files from URLs: what is no URL is the client's mistake, found before anything is asked."""

import asyncio

import pytest

from boxwright.errdefs import InvalidParameter
from boxwright.images import download


@pytest.mark.parametrize(
    "url", ["http://", "http:///path", "http://[", "http://host:99999/", "https://a b/", "ftp://a/b"]
)
def test_what_is_no_url_is_refused(url: str) -> None:
    async def ask() -> None:
        async with download.opened(url):
            raise AssertionError("it was fetched")

    with pytest.raises(InvalidParameter) as refused:
        asyncio.run(ask())
    assert url in str(refused.value)

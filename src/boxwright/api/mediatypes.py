"""The media types of Docker's byte streams.

The frames themselves (a stream's number, three zeros, the payload's length in big-endian, the payload) are made where
the streams are: by the shim for attach and exec, by the engine for logs.
"""

from .versions import Version

RAW_STREAM = "application/vnd.docker.raw-stream"
MULTIPLEXED_STREAM = "application/vnd.docker.multiplexed-stream"


def content_type(multiplexed: bool, version: Version) -> str:
    """The media type of a stream: before API 1.42 frames were not told apart from raw bytes."""
    return MULTIPLEXED_STREAM if multiplexed and version >= (1, 42) else RAW_STREAM

"""An engine inside a Python program: private, and gone when the program is.

    with boxwright.embed.engine() as e:
        e.load("image.tar")
        e.client().containers.run("busybox", "true")

docs/embedding.md says more; the pytest fixtures are in `pytest_plugin.py`.
"""

from boxwright.embed.engine import EmbeddedEngine, engine
from boxwright.embed.process import EngineError

__all__ = ["EmbeddedEngine", "EngineError", "engine"]

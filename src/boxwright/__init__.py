"""boxwright: a Docker-compatible container engine in Python.

This module imports nothing: the launcher and the OCI runtime import it on their way to a start.
"""

__version__ = "0.1.0"

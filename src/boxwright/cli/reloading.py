"""SIGHUP: the settings file is read again, and what can change while the engine runs does, as with dockerd.

What new containers get (limits, logging, DNS) is read at each create, so it changes for the next one.  A file that is
wrong changes nothing and is reported in the log.
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

import msgspec

from boxwright.cli import configuration
from boxwright.errdefs import Error

if TYPE_CHECKING:
    from collections.abc import Callable

    from boxwright.config import Settings
    from boxwright.engine.engine import Engine

RELOADABLE = (
    "debug",
    "log_level",
    "live_restore",
    "labels",
    "shutdown_timeout",
    "authorization_plugins",
    "default_ulimits",
    "default_shm_size",
    "default_ipc_mode",
    "default_cgroupns_mode",
    "no_new_privileges",
    "init",
    "log_driver",
    "log_opts",
    "registry_mirrors",
    "insecure_registries",
    "required_signatures",
    "max_concurrent_downloads",
    "max_concurrent_uploads",
    "max_download_attempts",
    "dns",
    "dns_search",
    "dns_opts",
)

log = logging.getLogger(__name__)


def reload(eng: Engine, reread: Callable[[], Settings]) -> bool:
    """Take over what may change; publishes `daemon reload`.  Returns whether the file was good."""
    try:
        new = reread()
        configuration.check(new)
    except (Error, OSError) as error:
        log.error("the configuration was not reloaded: %s", error)
        return False
    present = eng.config
    for name in type(present).__struct_fields__:
        before, after = getattr(present, name), getattr(new, name)
        if before == after:
            continue
        if name in RELOADABLE:
            setattr(present, name, after)
        else:
            log.warning("%s needs a restart of the engine to change", name.replace("_", "-"))
    logging.getLogger().setLevel(configuration.LEVELS[present.log_level])
    encoded = zip(RELOADABLE, (name.replace("_", "-") for name in RELOADABLE), strict=True)
    attributes = {key: _text(getattr(present, name)) for name, key in encoded}
    eng.bus.publish("daemon", "reload", eng.id, {"name": os.uname().nodename, **attributes})
    log.info("reloaded configuration")
    return True


def _text(value: object) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()

"""What made-up requests find in an engine, and what a refused one must leave alone."""

import json

from support.engine import Engine


def furnish(engine: Engine) -> None:
    """An image, a running container and an idle one, by the names that cases use."""
    if engine.api("GET", "/images/busybox/json").status != 200:
        engine.load()
    for name, command in (("box", ["sleep", "1000"]), ("idle", ["true"])):
        if engine.api("GET", f"/containers/{name}/json").status != 200:
            engine.api(
                "POST", f"/containers/create?name={name}", {"Image": "busybox", "Cmd": command, "StopTimeout": 0}
            )
    engine.api("POST", "/containers/box/start")


def desired(engine: Engine) -> str:
    """What a refused request must leave alone."""
    containers = engine.api("GET", "/containers/json?all=1").json
    kept = [(c["Id"], sorted(c["Names"]), c["State"] == "paused") for c in containers]
    configs = [engine.api("GET", f"/containers/{c['Id']}/json") for c in containers]
    hosts = [c.json["HostConfig"] for c in configs if c.status == 200]
    images = [(i["Id"], sorted(i["RepoTags"] or [])) for i in engine.api("GET", "/images/json?all=1").json]
    volumes = [v["Name"] for v in engine.api("GET", "/volumes").json["Volumes"] or []]
    return json.dumps([sorted(kept), hosts, sorted(images), sorted(volumes)], sort_keys=True)


def clear(engine: Engine) -> None:
    """Remove every container."""
    for container in engine.api("GET", "/containers/json?all=1").json:
        engine.api("DELETE", f"/containers/{container['Id']}?force=1&v=1")

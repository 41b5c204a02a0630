from collections.abc import Awaitable, Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.desired import Desired

from boxwright.engine import inspect, links, remove, rename, start
from boxwright.errdefs import Conflict, InvalidParameter, NotFound, System
from boxwright.types import ContainerConfig

Desire = Callable[[Callable[[Desired], Awaitable[None]]], None]


def test_names_and_aliases() -> None:
    assert links.parse("db") == ("db", "db")
    assert links.parse("db:sql") == ("db", "sql")
    assert links.parse("/db:/web/sql") == ("db", "sql")
    for bad in ("", "a:b:c", "db:", "db:a/b", "db:a b", "db:a\n1.2.3.4 evil", "db:é"):
        with pytest.raises(InvalidParameter):
            links.parse(bad)


@given(st.text("ab:/.\n ", max_size=10))
def test_an_alias_is_always_one_word(text: str) -> None:
    try:
        _, alias = links.parse(text)
    except InvalidParameter:
        return
    assert alias and not set(alias) & set("/: \n")


def test_variables_of_one_port() -> None:
    config = ContainerConfig(exposed_ports={"5432/tcp": {}}, env=["PATH=/bin", "HOME=/", "USER=pg", "EMPTY=", "BARE"])
    assert links.variables("/web/my-db", "172.17.0.2", config) == [
        "MY_DB_PORT=tcp://172.17.0.2:5432",
        "MY_DB_PORT_5432_TCP=tcp://172.17.0.2:5432",
        "MY_DB_PORT_5432_TCP_ADDR=172.17.0.2",
        "MY_DB_PORT_5432_TCP_PORT=5432",
        "MY_DB_PORT_5432_TCP_PROTO=tcp",
        "MY_DB_NAME=/web/my-db",
        "MY_DB_ENV_USER=pg",
        "MY_DB_ENV_EMPTY=",
    ]


def test_neighbouring_ports_are_also_given_as_a_range() -> None:
    config = ContainerConfig(exposed_ports={"80-82/tcp": {}, "53/udp": {}, "53/tcp": {}, "90/tcp": {}})
    found = links.variables("/web/db", "1.2.3.4", config)
    assert found[0] == "DB_PORT=tcp://1.2.3.4:53"
    assert found[1:7] == [
        "DB_PORT_80_TCP_START=tcp://1.2.3.4:80",
        "DB_PORT_80_TCP_ADDR=1.2.3.4",
        "DB_PORT_80_TCP_PROTO=tcp",
        "DB_PORT_80_TCP_PORT_START=80",
        "DB_PORT_80_TCP_END=tcp://1.2.3.4:82",
        "DB_PORT_80_TCP_PORT_END=82",
    ]
    assert "DB_PORT_53_UDP=udp://1.2.3.4:53" in found


def test_links_follow_names_through_rename_and_removal(desire: Desire) -> None:
    async def work(world: Desired) -> None:
        eng = world.eng
        database = await world.make("db", {"Hostname": "sqlhost"})
        web = await world.make("web", {"HostConfig": {"Links": ["db:sql"]}})
        assert eng.store.get("web/sql") is eng.store.get("/web/sql") is database
        assert eng.store.names(database) == ["/db", "/web/sql"]
        assert inspect.describe(eng, web)["HostConfig"]["Links"] == ["/db:/web/sql"]
        with pytest.raises(System, match="Cannot link to a non running container: /db AS /web/sql"):
            links.environment(eng, web)
        await start.start(eng, "db")
        assert links.hosts(eng, web) == [("172.17.0.2", "sql sqlhost db")]
        assert "SQL_NAME=/web/sql" in links.environment(eng, web)
        assert links.parents(eng.store, database) == [web]
        await rename.rename(eng, "web", "front")
        assert eng.store.get("front/sql") is database
        await rename.rename(eng, "db", "database")
        assert inspect.describe(eng, web)["HostConfig"]["Links"] == ["/database:/front/sql"]
        await remove.remove(eng, "database", force=True)
        assert links.environment(eng, web) == []
        assert inspect.describe(eng, web)["HostConfig"]["Links"] is None

    desire(work)


def test_removing_a_link_leaves_both_containers(desire: Desire) -> None:
    async def work(world: Desired) -> None:
        eng = world.eng
        await world.make("db")
        web = await world.make("web", {"HostConfig": {"Links": ["db:sql", "db:other"]}})
        with pytest.raises(Conflict, match="Conflict, cannot remove the default link name of the container"):
            await remove.remove(eng, "web", link=True)
        with pytest.raises(NotFound):
            await remove.remove(eng, "web/nope", link=True)
        await remove.remove(eng, "/web/sql", link=True)
        assert len(eng.store) == 2
        assert links.to_docker(eng.store, web) == ["/db:/web/other"]
        assert web.host_config.links == ["db:other"]

    desire(work)


def test_one_alias_for_two_containers_is_refused(desire: Desire) -> None:
    async def work(world: Desired) -> None:
        await world.make("db1")
        await world.make("db2")
        with pytest.raises(Conflict):
            await world.ask("web", {"HostConfig": {"Links": ["db1:sql", "db2:sql"]}})
        host = await world.make("hosted", {"HostConfig": {"NetworkMode": "host"}})
        with pytest.raises(InvalidParameter, match="host type networking can't be used with links"):
            await world.ask("web", {"HostConfig": {"Links": [f"{host.id}:x"]}})

    desire(work)

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from boxwright.db.connection import Database
from boxwright.engine.graphdb import ROOT, SCRIPTS, Graph, NameTaken


@pytest.fixture
def graph(tmp_path: Path) -> Iterator[Graph]:
    db = Database(str(tmp_path / "g.db"))
    db.migrate("graph", SCRIPTS)
    yield Graph(db)
    db.close()


def test_names_and_links(graph: Graph) -> None:
    graph.set("/web", "1")
    graph.set("/db", "2")
    graph.set("/web/sql", "2")
    assert graph.find("/web") == graph.find("web") == "1"
    assert graph.find("/web/sql") == "2"
    assert graph.find("/") == ROOT
    assert graph.find("/db/sql") is None
    assert graph.children("1") == {"sql": "2"}
    assert graph.parents("2") == [(ROOT, "db"), ("1", "sql")]
    assert graph.aliases() == [("1", "sql", "2")]


def test_a_name_is_taken_once(graph: Graph) -> None:
    graph.set("/web", "1")
    graph.set("/web", "1")
    with pytest.raises(NameTaken) as caught:
        graph.set("/web", "2")
    assert caught.value.holder == "1"
    with pytest.raises(NameTaken):
        graph.set("/other", "2")
        graph.rename("/other", "/web")
    with pytest.raises(KeyError):
        graph.set("/nobody/x", "1")
    with pytest.raises(KeyError):
        graph.rename("/nobody", "/y")
    with pytest.raises(KeyError):
        graph.set("/", "1")


def test_links_move_with_a_rename_and_go_with_either_end(graph: Graph) -> None:
    for path, entity in (("/web", "1"), ("/db", "2"), ("/web/sql", "2"), ("/cache", "3"), ("/web/mem", "3")):
        graph.set(path, entity)
    graph.rename("/web", "/front")
    assert graph.find("/front/sql") == "2"
    graph.purge("2")
    assert graph.children("1") == {"mem": "3"}
    assert graph.find("/db") is None
    graph.purge("1")
    assert graph.find("/front") is None
    assert graph.parents("3") == [(ROOT, "cache")]
    graph.purge(ROOT)
    assert graph.find("/cache") == "3"


def test_removing_a_path_leaves_the_entity(graph: Graph) -> None:
    graph.set("/a", "1")
    graph.set("/b", "2")
    graph.set("/a/b", "2")
    assert graph.remove("/a/b")
    assert not graph.remove("/a/b")
    assert not graph.remove("/")
    assert not graph.remove("/x/y")
    assert graph.find("/b") == "2"


names = st.sampled_from(["a", "b", "c"])
entities = st.sampled_from(["1", "2", "3", "4"])


class Model(RuleBasedStateMachine):
    """The graph against a dict from (parent, name) to entity."""

    def __init__(self) -> None:
        super().__init__()
        self.db = Database(":memory:")
        self.db.migrate("graph", SCRIPTS)
        self.graph = Graph(self.db)
        self.edges: dict[tuple[str, str], str] = {}

    def find(self, *path: str) -> str | None:
        entity: str | None = ROOT
        for name in path:
            entity = self.edges.get((entity, name)) if entity else None
        return entity

    @rule(name=names, entity=entities)
    def name(self, name: str, entity: str) -> None:
        holder = self.edges.setdefault((ROOT, name), entity)
        try:
            self.graph.set(f"/{name}", entity)
            assert holder == entity
        except NameTaken as taken:
            assert taken.holder == holder != entity

    @rule(parent=names, alias=names, entity=entities)
    def link(self, parent: str, alias: str, entity: str) -> None:
        above = self.find(parent)
        try:
            self.graph.set(f"/{parent}/{alias}", entity)
            assert above and self.edges.setdefault((above, alias), entity) == entity
        except KeyError:
            assert above is None
        except NameTaken as taken:
            assert above and self.edges[(above, alias)] == taken.holder != entity

    @rule(old=names, new=names)
    def rename(self, old: str, new: str) -> None:
        entity, holder = self.find(old), self.find(new)
        try:
            self.graph.rename(f"/{old}", f"/{new}")
            assert entity and not holder
            del self.edges[(ROOT, old)]
            self.edges[(ROOT, new)] = entity
        except KeyError:
            assert entity is None
        except NameTaken:
            assert holder

    @rule(entity=entities)
    def purge(self, entity: str) -> None:
        self.graph.purge(entity)
        self.edges = {key: to for key, to in self.edges.items() if entity not in (key[0], to)}

    @rule(parent=names, alias=names)
    def unlink(self, parent: str, alias: str) -> None:
        above = self.find(parent)
        had = above is not None and self.edges.pop((above, alias), None) is not None
        assert self.graph.remove(f"/{parent}/{alias}") == had

    @invariant()
    def same(self) -> None:
        assert {(parent, name): to for parent, name, to in self.db.query("SELECT * FROM edges")} == self.edges

    def teardown(self) -> None:
        self.db.close()


TestModel = Model.TestCase
TestModel.settings = settings(max_examples=40, stateful_step_count=20)

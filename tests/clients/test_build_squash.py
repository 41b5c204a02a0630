"""`docker build --squash`: one layer in place of the steps', with the same files, on both storage drivers."""

import io
import json
import tarfile
from collections.abc import Iterator

import pytest
from support import builds, registries
from support.engine import Engine

pytestmark = [pytest.mark.root, pytest.mark.network]

BASE = """FROM busybox
RUN mkdir -p /d/deep /gone /swapped && echo 1 > /d/kept && echo 2 > /d/deleted && echo 3 > /gone/f && echo 4 > /swapped/f
RUN echo a > /link1 && ln /link1 /link2 && echo old > /file
COPY same /same
"""
STEPS = """FROM base
ENV A=1
RUN dd if=/dev/zero of=/big bs=1k count=4k && echo secret > /secret
RUN rm /big /secret /d/deleted && rm -r /gone /swapped && echo file > /swapped
RUN rm /file && mkdir /file && echo in > /file/in && chmod 700 /d && chown 3:4 /d/kept && rm /link1 /link2 && echo b > /link1 && ln /link1 /link2
RUN rm -r /d/deep && mkdir /d/deep && echo new > /d/deep/new && ln -s /d/kept /sym && mkdir -p /dev/shm /proc/x; true
COPY same /same
RUN mkfifo /fifo && echo x > /x && ln /x /y
CMD ["cat", "/d/kept"]
"""
# Everything of every file but times, which directories get from whoever made them.
TREE = "find / -xdev ! -path '/proc*' ! -path '/sys*' ! -path '/dev*' ! -path '/etc/*' -exec stat -c '%n %F %a %u %g' {} + | sort; stat -c '%n %h' /link1 /link2 /x /y /same; cat /d/kept /swapped /file/in /same /link1 /link2 /d/deep/new"


@pytest.fixture(scope="module", params=["overlay", "vfs"])
def experimental(request: pytest.FixtureRequest, nothing_left_behind: None) -> Iterator[Engine]:
    made = Engine("--experimental", "-s", request.param)
    try:
        made.start().load()
        yield made
    finally:
        made.close()


def members(engine: Engine, image: str) -> tuple[dict[str, tarfile.TarInfo], int]:
    """What is in an image's topmost layer, as `docker save` has it; and how many layers there are."""
    data = engine.api("GET", f"/images/{image}/get").raw
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        file = tar.extractfile("manifest.json")
        assert file is not None
        layers = json.load(file)[0]["Layers"]
        layer = tar.extractfile(layers[-1])
        assert layer is not None
        with tarfile.open(fileobj=io.BytesIO(layer.read())) as inner:
            return {member.name.rstrip("/"): member for member in inner}, len(layers)


def test_one_layer_with_the_same_files(experimental: Engine) -> None:
    base = builds.by_docker_py(experimental, builds.archive({"same": "same"}, BASE), tag="base")
    plain = builds.by_docker_py(experimental, builds.archive({"same": "SAME"}, STEPS))
    squashed = builds.by_docker_py(experimental, builds.archive({"same": "SAME"}, STEPS), squash=True, tag="squashed")
    assert base.image and plain.image and squashed.image, squashed.error
    one, other = builds.config(experimental, plain.image), builds.config(experimental, "squashed")
    assert other["Id"] == squashed.image and one["Config"] == other["Config"]
    below = builds.config(experimental, "base")["RootFS"]["Layers"]
    assert other["RootFS"]["Layers"][:-1] == below and len(one["RootFS"]["Layers"]) > len(below) + 1
    assert experimental.ok("run", "--rm", plain.image, "sh", "-c", TREE) == experimental.ok(
        "run", "--rm", "squashed", "sh", "-c", TREE
    )
    assert experimental.ok("run", "--rm", "squashed") == "1"

    found, count = members(experimental, "squashed")
    assert count == len(below) + 1
    assert not {"big", "secret", ".wh.big", ".wh.secret"} & set(found), "what never was is neither kept nor deleted"
    assert {".wh.gone", "d/.wh.deleted"} <= set(found) and "d/deep/new" in found
    assert not {"bin", "bin/busybox", "d/deep/.wh..wh..opq"} & set(found), "what is as below is not there again"
    assert found["y"].islnk() and found["y"].linkname == "x"
    assert {"link1", "link2"} <= set(found) and found["link2"].islnk(), "links stay links"
    assert found["fifo"].isfifo() and found["same"].mtime == 1_700_000_000


def test_history_and_kin(experimental: Engine) -> None:
    base = builds.by_docker_py(experimental, builds.archive({"same": "same"}, BASE), tag="base")
    squashed = builds.by_docker_py(experimental, builds.archive({"same": "SAME"}, STEPS), squash=True, tag="kin")
    history = experimental.api("GET", f"/images/{squashed.image}/history").json
    below = experimental.api("GET", f"/images/{base.image}/history").json
    assert [entry["CreatedBy"] for entry in history[-len(below) :]] == [entry["CreatedBy"] for entry in below]
    assert history[0]["Comment"].startswith("merge sha256:") and history[0]["Comment"].endswith(
        f"to {builds.config(experimental, 'base')['Id']}"
    )
    assert history[0]["Size"] > 0 and not any(entry["Size"] for entry in history[1 : -len(below)])
    assert builds.config(experimental, squashed.image)["Parent"] == ""
    # It does not need the images of its steps.
    experimental.ok("image", "prune", "-f")
    assert experimental.ok("run", "--rm", squashed.image) == "1"


def test_from_scratch_and_from_nothing_new(experimental: Engine) -> None:
    text = "FROM scratch\nCOPY a /a\nCOPY b /b\n"
    built = builds.by_docker_py(experimental, builds.archive({"a": "A", "b": "B"}, text), squash=True)
    found, count = members(experimental, built.image)
    assert count == 1 and set(found) == {"a", "b"}
    history = experimental.api("GET", f"/images/{built.image}/history").json
    assert history[0]["Comment"].startswith("create new from sha256:")
    built = builds.by_docker_py(experimental, builds.archive({}, "FROM busybox\nENV A=1\n"), squash=True)
    assert builds.config(experimental, built.image)["RootFS"] == builds.config(experimental, "busybox")["RootFS"]


def test_the_last_stage_alone(experimental: Engine) -> None:
    text = "FROM busybox AS one\nRUN echo 1 > /one\nFROM one\nRUN echo 2 > /two\nRUN echo 3 > /three\n"
    built = builds.by_docker_py(experimental, builds.archive({}, text), squash=True)
    found, _ = members(experimental, built.image)
    assert {"two", "three"} <= set(found) and "one" not in found
    assert experimental.ok("run", "--rm", built.image, "cat", "/one", "/two") == "1\n2"


def test_the_same_id_for_the_same_inputs(experimental: Engine) -> None:
    arguments = {"SOURCE_DATE_EPOCH": "1700000000"}
    text = "FROM busybox\nRUN echo 1 > /x\nRUN rm /x; echo 2 > /y\n"
    images = {
        builds.by_docker_py(
            experimental, builds.archive({}, text), squash=True, nocache=True, buildargs=arguments
        ).image
        for _ in range(2)
    }
    assert len(images) == 1


def test_it_is_pushed_and_comes_back(experimental: Engine) -> None:
    with registries.registry() as registry:
        name = registry.name("squashed")
        built = builds.by_cli(experimental, builds.archive({"same": "same"}, BASE), "--squash", "-t", name)
        assert built.image, built.error
        identifier = builds.config(experimental, name)["Id"]
        experimental.ok("push", name)
        experimental.ok("rmi", name)
        experimental.ok("pull", name)
        assert builds.config(experimental, name)["Id"] == identifier
        assert experimental.ok("run", "--rm", name, "cat", "/d/kept") == "1"


def test_only_when_it_is_offered(engine: Engine) -> None:
    assert engine.api("GET", "/_ping").headers["docker-experimental"] == "false"
    built = builds.by_docker_py(engine, builds.archive({}, "FROM busybox\nENV A=1\n"), squash=True)
    assert "squash is only supported with experimental mode" in built.error
    refused = engine.docker("build", "--squash", "-", stdin=b"", env={"DOCKER_BUILDKIT": "0"})
    assert "experimental" in refused.err


def test_it_says_that_it_is_offered(experimental: Engine) -> None:
    assert experimental.api("GET", "/_ping").headers["docker-experimental"] == "true"
    assert experimental.api("GET", "/info").json["ExperimentalBuild"] is True

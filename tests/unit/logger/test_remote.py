"""What the drivers that send make of records, byte by byte where their receivers read them so."""

import json
import socket
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from support import receivers

from boxwright.logger import fluentd, journald
from boxwright.logger.gelf import Gelf
from boxwright.logger.lines import PARTIAL, Partial
from boxwright.logger.remote import Assembler, Record, Source
from boxwright.logger.syslog import Syslog

SOURCE = Source("f" * 64, "web", "busybox", "sha256:1", "true", "2026-01-01T00:00:00Z", "host", "tag", {"my.key": "v"})
RECORD = Record("stderr", 1_600_000_000_123_456_789, b"text", None)


def test_parts_of_a_long_line_are_numbered() -> None:
    lines = Assembler()
    records = lines.feed("stdout", b"x" * (2 * PARTIAL) + b"end\nnext\n", 1)
    parts = [record.partial for record in records[:3]]
    assert [(p.ordinal, p.last) for p in parts if p] == [(1, False), (2, False), (3, True)]
    assert len({p.id for p in parts if p}) == 1
    assert records[3] == Record("stdout", 1, b"next", None)


def test_a_long_line_that_ends_with_its_stream_ends_its_parts() -> None:
    lines = Assembler()
    first = lines.feed("stdout", b"x" * PARTIAL + b"rest", 1)
    last = lines.flush("stdout", 2)
    assert first[0].partial
    assert last[0].partial
    assert (last[0].line, last[0].partial.last, last[0].partial.id) == (b"rest", True, first[0].partial.id)


@given(st.text(max_size=70_000) | st.text(min_size=30, max_size=34) | st.text(min_size=250, max_size=260))
def test_strings_in_messagepack(text: str) -> None:
    data = fluentd.text(text)
    assert receivers.unpack(data) == (text.encode("utf-8", "replace").decode(), len(data))


def test_many_fields_in_messagepack() -> None:
    source = SOURCE._replace(attrs={f"k{n}": str(n) for n in range(40)})
    driver = fluentd.Fluentd({"fluentd-sub-second-precision": "true"}, source)
    part = Record("stdout", RECORD.time, b"x", Partial("id", 2, True))
    tag, time, fields = receivers.forwarded(driver.render(part))[0]
    assert (tag, time) == ("tag", (1_600_000_000, 123_456_789))
    assert len(fields) == 40 + 4 + 4
    assert (fields["partial_ordinal"], fields["partial_last"]) == ("2", "true")


HOSTILE = {
    "container_id": "x", "container_name": "other", "CONTAINER.NAME": "other", "image_name": "other", "_tag": "other",
    "message": "forged", "priority": "0", "syslog_identifier": "sshd", "object_systemd_unit": "sshd.service",
    "unit": "sshd.service", "coredump_unit": "sshd.service", "container_partial_last": "false", "id": "1", "_id": "1",
    "log": "forged", "source": "stderr", "partial_id": "1", "color": "red",
}  # fmt: skip


def test_labels_name_no_other_container(tmp_path: Path) -> None:
    """The image chooses its labels: with `labels-regex=.` they are all sent, and forge nothing."""
    source = SOURCE._replace(attrs=HOSTILE)
    entry = journald.Journald(source, str(tmp_path / "none")).render(RECORD).splitlines()
    names = [line.partition(b"=")[0].decode() for line in entry]
    assert len(names) == len(set(names))
    assert not any(
        journald.is_reserved(name) for name in names if name not in ("MESSAGE", "PRIORITY") and name[:7] != "SYSLOG_"
    )
    for said in (b"CONTAINER_NAME=web", b"IMAGE_NAME=busybox", b"SYSLOG_IDENTIFIER=tag", b"MESSAGE=text", b"COLOR=red"):
        assert said in entry

    gelf = json.loads(Gelf({"gelf-address": "udp://127.0.0.1:9"}, source).render(RECORD))
    assert (gelf["_container_name"], gelf["_image_name"], gelf["_tag"], gelf["_color"]) == (
        "web",
        "busybox",
        "tag",
        "red",
    )
    assert "_id" not in gelf

    part = Record("stdout", RECORD.time, b"x", Partial("id", 2, True))
    _, _, fields = receivers.forwarded(fluentd.Fluentd({}, source).render(part))[0]
    wanted = {
        "container_name": "/web",
        "container_id": "f" * 64,
        "log": "x",
        "source": "stdout",
        "partial_id": "id",
        "color": "red",
    }
    assert wanted.items() <= fields.items()


def test_journal_fields() -> None:
    assert journald.field("A", b"x") == b"A=x\n"
    assert journald.field("A", b"x\ny") == b"A\n\x03\0\0\0\0\0\0\0x\ny\n"
    assert journald.field_name("_my.key-1") == "MY_KEY_1"
    assert journald.field_name("é__") == ""


def test_a_journal_entry_that_is_too_long_comes_in_a_memfd(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    long = {"big": "y" * 1_000_000}
    with receivers.receiving(lambda data: [receivers.journal_fields(data)["BIG"]], socket.SOCK_DGRAM, path) as receiver:
        driver = journald.Journald(SOURCE._replace(attrs=long), str(path))
        assert driver.send([RECORD]) == 0
        assert receiver.wait(1) == [b"y" * 1_000_000]
        driver.close()


def test_gelf_that_takes_too_many_chunks_is_counted() -> None:
    driver = Gelf({"gelf-address": "udp://127.0.0.1:9", "gelf-compression-type": "none"}, SOURCE)
    assert driver.datagrams(b"x" * 1420 * 128) == []
    assert len(driver.datagrams(b"x" * 1408 * 128)) == 128
    assert driver.datagrams(b"x" * 1420) == [b"x" * 1420]


def test_syslog_forms() -> None:
    forms = {"": "<27>", "rfc3164": "<27>", "rfc5424": "<27>1 2020-09-13T", "rfc5424micro": "<27>1 2020-09-13T"}
    for form, head in forms.items():
        driver = Syslog({"syslog-address": "udp://127.0.0.1:9", "syslog-format": form}, SOURCE)
        message = driver.render(RECORD).decode()
        assert message.startswith(head), message
        assert message.endswith(("tag - text\n", "]: text\n")), message
    assert ".123456" in message

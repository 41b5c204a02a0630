import posixpath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boxwright.engine import mountspec
from boxwright.engine.mountpoint import MountPoint
from boxwright.engine.mountspec import parse_bind, parse_mount, parse_volumes_from, tmpfs_options
from boxwright.errdefs import Error, InvalidParameter, NotImplemented_
from boxwright.types.lenient import convert
from boxwright.types.mount import Mount


def refused(text: str) -> str:
    with pytest.raises(InvalidParameter) as caught:
        parse_bind(text)
    return str(caught.value)


def test_binds_and_volumes() -> None:
    p = parse_bind("/src//a/:/dst/../x:ro,rslave,z")
    assert (p.type, p.source, p.destination, p.rw, p.propagation, p.mode) == (
        "bind", "/src/a", "/x", False, "rslave", "ro,rslave,z",
    )  # fmt: skip
    assert p.create_source
    p = parse_bind("data:/d:nocopy")
    assert (p.type, p.name, p.driver, p.copy, p.named, p.rw) == ("volume", "data", "", False, True, True)
    assert parse_bind("data:/d").copy
    p = parse_bind("/only")
    assert (p.type, p.name, p.destination, p.named) == ("volume", "", "/only", False)
    assert parse_bind("/a:/b:cached").source == "/a"


def test_volumes_of_an_image() -> None:
    assert mountspec.volume_destination("../../x") == "/x"
    assert mountspec.volume_destination("/a//b/") == "/a/b"
    with pytest.raises(InvalidParameter, match="NUL"):
        mountspec.volume_destination("/a\0b")


def test_texts_of_refusals_are_dockers() -> None:
    mount = 'invalid mount config for type "{}"'
    assert refused(":/b") == "invalid volume specification: ':/b'"
    assert refused("/a:/b:ro:x") == "invalid volume specification: '/a:/b:ro:x'"
    assert refused("/x:rw") == "invalid volume specification: '/x:rw'"
    assert refused("/a:/b:zz") == "invalid mode: zz"
    for mode in ("ro,rw", "z,Z", "shared,slave", "ro,ro", ",", "ro,"):
        assert refused(f"/a:/b:{mode}") == f"invalid mode: {mode}"
    assert refused("a:/") == (
        f"invalid volume specification: 'a:/': {mount.format('volume')}: invalid specification: destination can't be '/'"
    )
    assert refused("/a:b") == (
        f"invalid volume specification: '/a:b': {mount.format('bind')}: invalid mount path: 'b' mount path must be absolute"
    )
    assert "field VolumeOptions must not be specified" in refused("/tmp:/x:nocopy")
    assert "field BindOptions must not be specified" in refused("data:/x:rshared")
    assert "destination can't be '/'" in refused("/a:/b/../..")
    assert "NUL" in refused("/a:/b\0c")


def mount(**fields: object) -> MountPoint:
    return parse_mount(convert(fields, Mount))


def test_mount_objects() -> None:
    p = mount(Type="bind", Source="/tmp/", Target="/x/", ReadOnly=True, BindOptions={"Propagation": "rshared"})
    assert (p.source, p.destination, p.rw, p.propagation, p.create_source) == ("/tmp", "/x", False, "rshared", False)
    p = mount(Type="bind", Source="/nonexistent", Target="/x", BindOptions={"CreateMountpoint": True})
    assert p.create_source
    p = mount(Type="volume", Source="v", Target="/x", VolumeOptions={"NoCopy": True, "Labels": {"a": "b"}})
    assert (p.name, p.copy, p.labels, p.driver) == ("v", False, {"a": "b"}, "")
    driver = {"DriverConfig": {"Name": "local", "Options": {"type": "tmpfs"}}}
    assert mount(Type="volume", Target="/x", VolumeOptions=driver).volume_options == {"type": "tmpfs"}
    p = mount(Type="tmpfs", Target="/x", TmpfsOptions={"SizeBytes": 1048576, "Mode": 0o1770, "Options": [["exec"]]})
    assert p.options == ["nosuid", "nodev", "mode=1770", "size=1048576", "exec"]


@pytest.mark.parametrize(
    ("fields", "kind", "text"),
    [
        ({"Type": "foo", "Target": "/x"}, InvalidParameter, "mount type unknown"),
        ({"Type": "bind", "Source": "/tmp"}, InvalidParameter, "field Target must not be empty"),
        ({"Type": "bind", "Target": "/x"}, InvalidParameter, "field Source must not be empty"),
        ({"Type": "bind", "Source": "rel", "Target": "/x"}, InvalidParameter, "'rel' mount path must be absolute"),
        ({"Type": "bind", "Source": "/tmp", "Target": "x"}, InvalidParameter, "'x' mount path must be absolute"),
        ({"Type": "bind", "Source": "/tmp", "Target": "/"}, InvalidParameter, "destination can't be '/'"),
        (
            {"Type": "bind", "Source": "/nonexist", "Target": "/x"},
            InvalidParameter,
            'invalid mount config for type "bind": bind source path does not exist: /nonexist',
        ),
        (
            {"Type": "bind", "Source": "/tmp", "Target": "/x", "VolumeOptions": {}},
            InvalidParameter,
            "field VolumeOptions must not be specified",
        ),
        (
            {"Type": "bind", "Source": "/tmp", "Target": "/x", "BindOptions": {"Propagation": "zz"}},
            InvalidParameter,
            "invalid propagation mode: zz",
        ),
        ({"Type": "tmpfs", "Source": "/tmp", "Target": "/x"}, InvalidParameter, "field Source must not be specified"),
        (
            {"Type": "tmpfs", "Target": "/x", "TmpfsOptions": {"Options": [["bad"]]}},
            InvalidParameter,
            "invalid option: bad",
        ),
        (
            {"Type": "volume", "Target": "/x", "ReadOnly": True},
            InvalidParameter,
            "must not set ReadOnly mode when using anonymous volumes",
        ),
        (
            {"Type": "volume", "Target": "/x", "VolumeOptions": {"Subpath": "a"}},
            InvalidParameter,
            "must not set Subpath when using anonymous volumes",
        ),
        *(
            (
                {"Type": "volume", "Source": "v", "Target": "/x", "VolumeOptions": {"Subpath": path}},
                InvalidParameter,
                'invalid mount config for type "volume": subpath must be a relative path within the volume',
            )
            for path in ("/etc", "..", "../x", "a/../../x", "a\0b")
        ),
        ({"Type": "image", "Source": "v", "Target": "/x"}, NotImplemented_, "type image"),
        ({"Type": "cluster", "Source": "v", "Target": "/x"}, NotImplemented_, "type cluster"),
    ],
)
def test_mount_objects_that_are_refused(fields: dict[str, object], kind: type[Error], text: str) -> None:
    with pytest.raises(kind) as caught:
        mount(**fields)
    assert text in str(caught.value)


def test_tmpfs_options() -> None:
    assert tmpfs_options("") == ["noexec", "nosuid", "nodev"]
    assert tmpfs_options("exec,size=1m,uid=7") == ["nosuid", "nodev", "exec", "size=1m", "uid=7"]
    assert tmpfs_options("size=1m,size=2m") == ["noexec", "nosuid", "nodev", "size=2m"]
    assert tmpfs_options("exec,noexec") == ["nosuid", "nodev", "noexec"]
    for bad in ("foo=bar", "size", "size=", "upperdir=/x", "mode=1,foo"):
        with pytest.raises(InvalidParameter, match="invalid tmpfs option"):
            tmpfs_options(bad)


def test_volumes_from() -> None:
    assert parse_volumes_from("web") == ("web", "rw")
    assert parse_volumes_from("web:ro,z") == ("web", "ro,z")
    for bad, text in (
        ("", "cannot be an empty string"),
        ("a:zz", "invalid mode: zz"),
        ("a:rshared", "invalid mode"),
        ("a:nocopy", "invalid mode"),
    ):
        with pytest.raises(InvalidParameter, match=text):
            parse_volumes_from(bad)


pieces = st.one_of(
    st.sampled_from(["/a", "a", "/", "..", "ro", "z", "nocopy", "rshared", "", "/a/../b"]), st.text(max_size=5)
)


@given(st.lists(pieces, max_size=5).map(":".join))
def test_a_bind_that_is_taken_is_clean_and_any_other_is_refused_by_text(text: str) -> None:
    try:
        point = parse_bind(text)
    except InvalidParameter:
        return
    assert point.destination.startswith("/") and point.destination != "/"
    assert posixpath.normpath(point.destination) == point.destination
    assert "\0" not in point.destination
    assert (point.type == "bind") == point.source.startswith("/")
    if point.mode:
        assert point.rw == ("ro" not in point.mode.split(","))


@given(st.text("ab/.", max_size=12))
def test_cleaning_a_path_is_stable(path: str) -> None:
    once = mountspec.clean("/" + path)
    assert once.startswith("/") and not once.startswith("//")
    assert mountspec.clean(once) == once
    assert ".." not in once.split("/")

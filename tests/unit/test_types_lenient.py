"""Go's leniency, reproduced: null is zero, keys match without case, the missing is zero; refusals name the field."""

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from boxwright.errdefs import InvalidParameter
from boxwright.types import (
    ContainerConfig,
    CreateRequest,
    EndpointSettings,
    ExecConfig,
    HealthConfig,
    HostConfig,
    Model,
    Mount,
    NetworkCreateRequest,
    Ulimit,
    VolumeCreateRequest,
    lenient,
)

EVERY_MODEL: list[type[Model]] = [
    CreateRequest,
    HostConfig,
    EndpointSettings,
    NetworkCreateRequest,
    VolumeCreateRequest,
]


def test_exact_body() -> None:
    body = b'{"Image":"busybox","Cmd":["true"],"HostConfig":{"Memory":1024,"UTSMode":"host"}}'
    request = lenient.decode(body, CreateRequest)
    assert request.image == "busybox"
    assert request.cmd == ["true"]
    assert request.host_config == HostConfig(memory=1024, uts_mode="host")
    assert request.config() == ContainerConfig(image="busybox", cmd=["true"])


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"image":"a","HOSTNAME":"h","Unknown":1}', ContainerConfig(image="a", hostname="h")),
        (b'{"Image":null,"Tty":null,"Env":null,"StopTimeout":null}', ContainerConfig()),
        (b'{"Cmd":"date"}', ContainerConfig(cmd=["date"])),
        (b'{"Entrypoint":[]}', ContainerConfig(entrypoint=[])),
        (b'{"Entrypoint":""}', ContainerConfig(entrypoint=[""])),
        (b'{"Env":["A=1",null]}', ContainerConfig(env=["A=1", ""])),
        (b'{"Healthcheck":{"test":["NONE"]}}', ContainerConfig(healthcheck=HealthConfig(test=["NONE"]))),
        (b'{"ExposedPorts":{"80/tcp":null}}', ContainerConfig(exposed_ports={"80/tcp": {}})),
        (b'{"StopTimeout":0}', ContainerConfig(stop_timeout=0)),
        (b'{"Labels":{"a":null}}', ContainerConfig(labels={"a": ""})),
        (b"null", ContainerConfig()),
        (b' {"Image":"x"} \n', ContainerConfig(image="x")),
    ],
)
def test_container_config(body: bytes, expected: ContainerConfig) -> None:
    assert lenient.decode(body, ContainerConfig) == expected


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"PortBindings":{"80/tcp":null,"81/tcp":[{"HostPort":"8","hostip":null}]}}', "8"),
        (b'{"portbindings":{"81/tcp":[{"hostPort":"8"}]}}', "8"),
    ],
)
def test_port_bindings(body: bytes, expected: str) -> None:
    bindings = lenient.decode(body, HostConfig).port_bindings
    assert bindings is not None
    assert bindings["81/tcp"] is not None
    assert [(b.host_ip, b.host_port) for b in bindings["81/tcp"]] == [("", expected)]


def test_fixed_arrays_are_padded_and_cut() -> None:
    assert lenient.decode(b'{"ConsoleSize":[24,80,7]}', HostConfig).console_size == (24, 80)
    assert lenient.decode(b'{"consolesize":[24]}', HostConfig).console_size == (24, 0)
    assert lenient.decode(b'{"ConsoleSize":null}', ExecConfig).console_size is None


def test_names_that_pascal_casing_gets_wrong() -> None:
    body = b'{"IPAMConfig":{"IPv4Address":"10.0.0.2","LinkLocalIPs":["169.254.0.1"]},"DNSNames":["a"],"IPPrefixLen":16}'
    endpoint = lenient.decode(body, EndpointSettings)
    assert endpoint.ipam_config is not None
    assert endpoint.ipam_config.ipv4_address == "10.0.0.2"
    assert endpoint.ipam_config.link_local_ips == ["169.254.0.1"]
    assert (endpoint.dns_names, endpoint.ip_prefix_len) == (["a"], 16)
    host = lenient.decode(b'{"BlkioDeviceReadIOps":[{"Path":"/dev/sda","Rate":5}],"KernelMemoryTCP":3}', HostConfig)
    assert host.blkio_device_read_iops is not None
    assert (host.blkio_device_read_iops[0].rate, host.kernel_memory_tcp) == (5, 3)


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"", "got EOF while reading request body"),
        (b"  ", "got EOF while reading request body"),
        (b"{", "unexpected EOF"),
        (b'{"Image":tru}', "invalid character"),
        (b'{"Image":"a"} x', "unexpected content after JSON"),
        (b'{"Image":"a"}{"Image":"b"}', "unexpected content after JSON"),
        (b'["a"]', "cannot unmarshal array into Go value of type CreateRequest"),
        (b'"a"', 'cannot unmarshal string "a" into Go value of type CreateRequest'),
        (b'{"Image":5}', "cannot unmarshal number 5 into Go struct field CreateRequest.Image of type string"),
        (b'{"Tty":"true"}', 'string "true" into Go struct field CreateRequest.Tty of type bool'),
        (b'{"HostConfig":[]}', "array into Go struct field CreateRequest.HostConfig of type HostConfig"),
        (
            b'{"HostConfig":{"memory":"1g"}}',
            'string "1g" into Go struct field CreateRequest.HostConfig.Memory of type int64',
        ),
        (
            b'{"HostConfig":{"Memory":1.5}}',
            "number 1.5 into Go struct field CreateRequest.HostConfig.Memory of type int64",
        ),
        (b'{"HostConfig":{"Memory":9223372036854775808}}', "CreateRequest.HostConfig.Memory of type int64"),
        (b'{"HostConfig":{"BlkioWeight":70000}}', "CreateRequest.HostConfig.BlkioWeight of type uint16"),
        (b'{"HostConfig":{"Memory":true}}', "bool true into Go struct field CreateRequest.HostConfig.Memory"),
        (b'{"HostConfig":{"Ulimits":[{"Name":5}]}}', "CreateRequest.HostConfig.Ulimits.Name of type string"),
        (b'{"HostConfig":{"Binds":"/a:/b"}}', "CreateRequest.HostConfig.Binds of type []string"),
        (b'{"ExposedPorts":["80/tcp"]}', "CreateRequest.ExposedPorts of type map[string]struct {}"),
        (b'{"ExposedPorts":{"80":1}}', "number 1 into Go struct field CreateRequest.ExposedPorts of type struct {}"),
        (b'{"Cmd":{"a":1}}', "object into Go struct field CreateRequest.Cmd of type []string"),
        (b'{"Labels":{"a":1}}', "CreateRequest.Labels of type string"),
        (b'{"Image":"a\\u0000b"}', "invalid character '\\x00'"),
        (b'{"Image":"\\\\\\u0000"}', "invalid character '\\x00'"),
        (b'{"Image":"\xff"}', "invalid JSON"),
        (b'{"Image":"\\ud800"}', "invalid JSON"),
        (b"[" * 100_000, "exceeded max depth"),
        (b'{"X":' + b"[" * 1000 + b"]" * 1000 + b"}", "exceeded max depth"),
        (b'{"HostConfig":' * 100_000 + b"1" + b"}" * 100_000, "exceeded max depth"),
        (b'{"X":' + b"1" * 5000 + b"}", "invalid JSON"),
        (b'{"X":1e999}', "invalid JSON"),
    ],
)
def test_refusals_name_field_and_value(body: bytes, text: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        lenient.decode(body, CreateRequest)
    assert text in str(caught.value)


def test_an_escaped_backslash_before_u0000_is_no_nul() -> None:
    assert lenient.decode(b'{"Image":"\\\\u0000"}', CreateRequest).image == "\\u0000"


def test_dump_keeps_null_empty_and_absent_apart() -> None:
    sent = lenient.dump(ContainerConfig(entrypoint=[], labels={}))
    assert sent["Cmd"] is None
    assert sent["Entrypoint"] == []
    assert sent["Labels"] == {}
    assert "Healthcheck" not in sent
    assert "StopTimeout" not in sent
    assert lenient.dump(ContainerConfig(stop_timeout=5))["StopTimeout"] == 5
    host = lenient.dump(HostConfig(mounts=[Mount(type="bind", target="/a")], ulimits=[Ulimit(name="nofile")]))
    assert host["Mounts"] == [{"Type": "bind", "Target": "/a"}]
    assert host["Ulimits"] == [{"Name": "nofile", "Hard": 0, "Soft": 0}]
    assert host["ConsoleSize"] == [0, 0]
    assert host["LogConfig"] == {"Type": "", "Config": None}
    assert "Sysctls" not in host


def test_a_pointer_to_zero_is_not_empty() -> None:
    assert lenient.dump(ContainerConfig(stop_timeout=0))["StopTimeout"] == 0
    assert lenient.dump(HostConfig(init=False))["Init"] is False


@pytest.mark.parametrize("model", EVERY_MODEL)
def test_the_way_out_is_the_way_in(model: type[Model]) -> None:
    assert lenient.decode(msgspec.json.encode(lenient.dump(model())), model) == model()
    assert lenient.decode(msgspec.json.encode(model()), model) == model()


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
)
KEYS = [key for model in (CreateRequest, HostConfig) for key in model.__struct_encode_fields__]


@given(st.dictionaries(st.sampled_from(KEYS), JSON), st.dictionaries(st.sampled_from(KEYS), JSON))
def test_any_json_gives_a_model_or_a_refusal(config: dict[str, object], host: dict[str, object]) -> None:
    try:
        request = lenient.decode(json.dumps({**config, "HostConfig": host}).encode(), CreateRequest)
    except InvalidParameter:
        return
    # Not the model itself: `{}` and null are one where Docker leaves the empty out.
    sent = lenient.dump(request)
    assert lenient.dump(lenient.decode(msgspec.json.encode(sent), CreateRequest)) == sent


@given(st.binary())
def test_any_bytes_give_a_model_or_a_refusal(body: bytes) -> None:
    try:
        lenient.decode(body, CreateRequest)
    except InvalidParameter:
        return


def test_brackets_in_strings_do_not_nest() -> None:
    text = "[{" * 2000 + '\\"['
    assert lenient.parse(json.dumps([text] * 3)) == [text] * 3
    assert lenient.parse(b"[" * 500 + b"[]," * 5000 + b"1" + b"]" * 500)

"""A small volume plugin, a process of its own: `python volume_plugin.py SOCKET HOME`.

Volumes are directories below HOME/volumes; what it is asked is written to HOME/log, one JSON line each, and who has
what mounted to HOME/mounted, so that it may be killed and started again.  The word in HOME/mode, read at every request,
makes it misbehave.
"""

import http.server
import json
import os
import shutil
import socketserver
import sys
import threading
import time
from pathlib import Path
from typing import Any

HOME = Path(sys.argv[2]) if len(sys.argv) > 2 else Path()
LOCK = threading.Lock()


def mounted() -> dict[str, list[str]]:
    """Ids by volume."""
    found: dict[str, list[str]] = json.loads((HOME / "mounted").read_text())
    return found


def keep(users: dict[str, list[str]]) -> None:
    (HOME / "mounted.new").write_text(json.dumps(users))
    os.rename(HOME / "mounted.new", HOME / "mounted")


def volume(name: str) -> dict[str, Any]:
    place = HOME / "volumes" / name
    shown: dict[str, Any] = {"Name": name, "Status": {"files": len(os.listdir(place))}}
    return {**shown, "Mountpoint": str(place)} if mounted().get(name) else shown


def answer(verb: str, asked: dict[str, Any]) -> dict[str, Any]:
    name = str(asked.get("Name") or "")
    place = HOME / "volumes" / name
    if verb == "Capabilities":
        return {"Capabilities": {"Scope": "global"}}
    if verb == "List":
        return {"Volumes": [volume(name) for name in sorted(os.listdir(HOME / "volumes"))]}
    if verb == "Create":
        if (asked.get("Opts") or {}).get("refuse"):
            return {"Err": "no room for it"}
        place.mkdir(exist_ok=True)
        return {}
    if not name or not place.is_dir():
        return {"Err": f"no volume {name}"}
    users = mounted()
    if verb == "Get":
        return {"Volume": volume(name)}
    if verb == "Path":
        return {"Mountpoint": str(place) if users.get(name) else ""}
    if verb == "Mount":
        keep(users | {name: sorted({*users.get(name, []), asked["ID"]})})
        return {"Mountpoint": str(place)}
    if verb == "Unmount":
        keep(users | {name: [id for id in users.get(name, []) if id != asked["ID"]]})
        return {}
    if verb == "Remove":
        if users.get(name):
            return {"Err": "it is mounted"}
        shutil.rmtree(place)
        return {}
    return {"Err": f"no verb {verb}"}


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"{}")
        verb = self.path.removeprefix("/VolumeDriver.")
        if self.path == "/Plugin.Activate":
            self.say(b'{"Implements": ["VolumeDriver"]}')
            return
        with LOCK:
            with open(HOME / "log", "a") as log:
                log.write(json.dumps({"verb": verb, **asked}) + "\n")
            self.misbehave((HOME / "mode").read_text().strip(), verb, asked)

    def misbehave(self, mode: str, verb: str, asked: dict[str, Any]) -> None:
        """mode: "", or KIND:VERB, for instance relative:Mount."""
        kind, _, when = mode.partition(":")
        if when != verb:
            self.say(json.dumps(answer(verb, asked)).encode())
        elif kind == "silent":
            time.sleep(60)
        elif kind == "die":
            answer(verb, asked)
            os._exit(1)
        elif kind == "status":
            self.say(b'{"Err": "the pool is broken"}', 500)
        else:
            self.say({
                "garbage": b"{",
                "deep": b'{"Volume": ' + b"[" * 100_000,
                "huge": b" " * (2 << 20),
                "list": b"[]",
                "numbers": b'{"Mountpoint": 7, "Volume": {"Name": 7}, "Volumes": [3]}',
                "relative": b'{"Mountpoint": "etc", "Volume": {"Name": "x", "Mountpoint": "etc"}}',
                "dots": b'{"Mountpoint": "/tmp/../etc"}',
                "root": b'{"Mountpoint": "//"}',
                "nul": b'{"Mountpoint": "/tmp\\u0000/x"}',
                "none": b"{}",
                "missing": b'{"Mountpoint": "/no/such/directory"}',
                "other": b'{"Volume": {"Name": "somebody-else"}}',
                "names": b'{"Volumes": [{"Name": "a/b"}, {"Name": ""}, {"Name": "\\u0007"}, {"Name": "good"}]}',
            }[kind])  # fmt: skip

    def say(self, body: bytes, status: int = 200) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        try:
            self.wfile.write(body)
        except BrokenPipeError:
            self.close_connection = True

    def address_string(self) -> str:
        return "engine"

    def log_message(self, *arguments: object) -> None:
        """Nothing: the log is HOME/log."""


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True


if __name__ == "__main__":
    (HOME / "volumes").mkdir(exist_ok=True)
    if not (HOME / "mounted").exists():
        keep({})
    if not (HOME / "mode").exists():
        (HOME / "mode").write_text("")
    with Server(sys.argv[1], Handler) as server:
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        server.serve_forever()

"""A small authorization plugin, a process of its own: `python authz_plugin.py SOCKET MODE LOG`.

MODE is a file whose word is read at every request; each question is written to LOG as one JSON line.
"""

import base64
import http.server
import json
import os
import socketserver
import sys
import time
from pathlib import Path


def judge(mode: str, asking: bool, question: dict[str, str]) -> dict[str, object] | None:
    body = base64.b64decode(question.get("RequestBody") or b"")
    if mode == "no-privileged" and asking and question["RequestUri"].partition("?")[0].endswith("/containers/create"):
        if not body or json.loads(body).get("HostConfig", {}).get("Privileged"):
            return {"Allow": False, "Msg": "privileged containers are not for you"}
    elif mode == "deny" or (mode == "deny-answers" and not asking):
        return {"Allow": False, "Msg": "no"}
    elif mode == "err":
        return {"Allow": True, "Err": "the policy cannot be read"}
    elif mode == "no-verdict":
        return {"Msg": "?"}
    elif mode == "truthy":
        return {"Allow": "true"}
    return {"Allow": True}


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        question = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"{}")
        if self.path == "/Plugin.Activate":
            self.answer(json.dumps({"Implements": ["authz"]}).encode())
            return
        with open(sys.argv[3], "a") as log:
            log.write(json.dumps({"Method": self.path, **question}) + "\n")
        mode = Path(sys.argv[2]).read_text().strip()
        if mode == "die":
            os._exit(1)
        if mode == "silent":
            time.sleep(60)
        if mode == "garbage":
            self.answer(b"{")
        elif mode == "huge":
            self.answer(b" " * (2 << 20))
        elif mode == "status":
            self.answer(b'{"Allow": true}', 500)
        else:
            self.answer(json.dumps(judge(mode, self.path.endswith("Req"), question)).encode())

    def answer(self, body: bytes, status: int = 200) -> None:
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
        """Nothing: the log is LOG."""


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True


if __name__ == "__main__":
    with Server(sys.argv[1], Handler) as server:
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        server.serve_forever()

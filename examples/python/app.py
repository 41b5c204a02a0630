"""Answers every request with what was asked for."""

import http.server
import json
import os
import sys


class Handler(http.server.BaseHTTPRequestHandler):
    """GET only."""

    def do_GET(self) -> None:
        """The path, and who answers."""
        body = json.dumps({"path": self.path, "user": os.getuid()}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


http.server.ThreadingHTTPServer(("", int(sys.argv[1])), Handler).serve_forever()

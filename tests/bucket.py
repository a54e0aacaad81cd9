"""A bucket of Google Cloud Storage on this machine: those calls of its JSON API that a run makes.

https://cloud.google.com/storage/docs/json_api/v1 describes them. An object is written whole and
replaced at once; there are no folders, nothing is appended to, nothing is renamed.
"""

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

PATH = re.compile(r"(?:/upload|/download)?/storage/v1/b/([^/]+)(/o)?/?(.*)")


class Bucket(ThreadingHTTPServer):
    """The server, and what is in it: `objects` has names to contents."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.objects: dict[str, bytes] = {}
        self.generations: dict[str, int] = {}
        self.read_only = re.compile("(?!)")  # names of objects that cannot be written
        self._lock = threading.Lock()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def environment(self) -> dict[str, str]:
        """What leads gcsfs, google-cloud-storage and TensorStore here, without credentials."""
        url = f"http://127.0.0.1:{self.server_port}"
        return {
            "STORAGE_EMULATOR_HOST": url,
            "TENSORSTORE_GCS_HTTP_URL": url,
            "GOOGLE_AUTH_TOKEN_FOR_TESTING": "token",
            "NO_GCE_CHECK": "true",
            "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
        }

    def put(self, name: str, data: bytes, expected: str | None) -> bool:
        """Writes an object, unless its generation is not the `expected` one."""
        with self._lock:
            now = self.generations.get(name, 0) if name in self.objects else 0
            if expected is not None and int(expected) != now:
                return False
            self.objects[name] = data
            self.generations[name] = self.generations.get(name, 0) + 1
            return True

    def size(self, name: str) -> int:
        """Bytes of an object."""
        return len(self.objects[name])

    def handle_error(self, request, client_address) -> None:
        """Clients hang up when they have what they want."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Bucket

    def do_GET(self) -> None:
        bucket, name, query = self._request()
        if name is None:
            return self._answer(200, {"kind": "storage#bucket", "name": bucket})
        if not name:
            return self._answer(200, self._list(query.get("prefix", ""), query.get("delimiter")))
        if name not in self.server.objects:
            return self._fail(404, f"no such object: {name}")
        if query.get("alt") != "media":
            return self._answer(200, self._resource(name))
        data = self.server.objects[name]
        headers = {"x-goog-generation": str(self.server.generations[name])}
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not asked:
            return self._answer(200, data, headers)
        first, last = int(asked[1]), min(int(asked[2] or len(data)), len(data) - 1)
        headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
        self._answer(206, data[first : last + 1], headers)

    def do_POST(self) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"]))
        _, _, query = self._request()
        name = query["name"]
        if self.server.read_only.search(name):
            return self._fail(403, f"nobody may write {name}")
        if query["uploadType"] == "resumable" and "upload_id" not in query:
            here = f"http://{self.headers['Host']}{self.path}&upload_id=1"
            return self._answer(200, b"", {"Location": here})
        if not self.server.put(name, data, query.get("ifGenerationMatch")):
            return self._fail(412, "conditionNotMet")
        self._answer(200, self._resource(name))

    def do_DELETE(self) -> None:
        _, name, _ = self._request()
        there = self.server.objects.pop(name, None) is not None
        self._answer(204, b"") if there else self._fail(404, f"no such object: {name}")

    def _request(self) -> tuple[str, str | None, dict[str, str]]:
        """The bucket, the object ("" for all, None for the bucket itself), and the query."""
        url = urlsplit(self.path)
        bucket, objects, name = PATH.fullmatch(url.path).groups()
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        return bucket, unquote(name) if objects else None, query

    def _list(self, prefix: str, delimiter: str | None) -> dict:
        names = [name for name in sorted(self.server.objects) if name.startswith(prefix)]
        rest = {name: name[len(prefix) :] for name in names}
        deeper = [name for name in names if delimiter and delimiter in rest[name]]
        folders = {prefix + rest[name].split(delimiter)[0] + delimiter for name in deeper}
        items = [self._resource(name) for name in names if name not in deeper]
        return {"kind": "storage#objects", "items": items, "prefixes": sorted(folders)}

    def _resource(self, name: str) -> dict:
        size, generation = len(self.server.objects[name]), self.server.generations[name]
        return {
            "kind": "storage#object",
            "name": name,
            "bucket": "bucket",
            "size": str(size),
            "generation": str(generation),
            "updated": "2026-01-01T00:00:00.000Z",
        }

    def _fail(self, status: int, message: str) -> None:
        self._answer(status, {"error": {"code": status, "message": message}})

    def _answer(self, status: int, body: bytes | dict, headers: dict[str, str] | None = None):
        body = json.dumps(body).encode() if isinstance(body, dict) else body
        self.send_response(status)
        for key, value in ((headers or {}) | {"Content-Length": str(len(body))}).items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_) -> None:
        """Nothing."""

"""Which URLs are opened, and what a user is told when object storage refuses: by a small server that says so."""

import contextlib
import http.server
import re
import threading

import pytest

from operators.errors import InputError
from operators.store import storage
from operators.store.remote import RefusedURLError, StorageError, check_url, explained

ANSWERS = {
    "no bucket": (404, "NoSuchBucket", "there is no such bucket", "correct the URL"),
    "denied": (403, "AccessDenied", "access is denied", "rights to list, read and write"),
    "wrong keys": (403, "InvalidAccessKeyId", "the keys are not accepted", "AWS_ACCESS_KEY_ID"),
    "wrong secret": (403, "SignatureDoesNotMatch", "the keys are not accepted", "AWS_SECRET_ACCESS_KEY"),
    "expired": (400, "ExpiredToken", "the credentials have expired", "AWS_SESSION_TOKEN"),
    "clock": (403, "RequestTimeTooSkewed", "clock is off", "set it"),
    "region": (400, "AuthorizationHeaderMalformed", "another region", "AWS_DEFAULT_REGION"),
    "quota": (403, "QuotaExceeded", "there is no room", "quota"),
    "overloaded": (503, "SlowDown", "the server is overloaded", "run again later"),
    "reset": (0, "", "the connection is refused or broken", "AWS_ENDPOINT_URL"),
}


class Refuses(http.server.BaseHTTPRequestHandler):
    """Answers every request with the server's own status and code; status 0 breaks the connection."""

    protocol_version = "HTTP/1.1"  # clients ask before they send a body

    def answer(self):
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        status, code = self.server.answer
        if not status:
            self.close_connection = True
            self.connection.close()
            return
        body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>m</Message></Error>".encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_):
        pass

    def finish(self):
        with contextlib.suppress(OSError, ValueError):
            super().finish()


for method in ("GET", "PUT", "HEAD", "POST", "DELETE"):
    setattr(Refuses, f"do_{method}", Refuses.answer)


@pytest.fixture(scope="module")
def server():
    made = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refuses)
    made.handle_error = lambda *_: None
    threading.Thread(target=made.serve_forever, daemon=True).start()
    yield made
    made.shutdown()
    made.server_close()


@pytest.fixture
def endpoint(server, monkeypatch):
    import s3fs

    values = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}",
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_MAX_ATTEMPTS": "1",
    }
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    s3fs.S3FileSystem.clear_instance_cache()
    yield values["AWS_ENDPOINT_URL"]
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.mark.parametrize("case", ANSWERS)
def test_an_error_of_object_storage_names_bucket_key_cause_and_advice(case, server, endpoint):
    status, code, cause, advice = ANSWERS[case]
    server.answer = (status, code)
    with pytest.raises(InputError) as refused:
        storage.check_store("s3://bucket/runs/x")
    said = str(refused.value)
    for part in ("bucket bucket", endpoint, cause, advice):
        assert part in said
    assert len(said.splitlines()) == 1
    if status != 404:  # that there is no such file is an answer
        with pytest.raises(StorageError) as refused:  # the answer to HEAD has no code, only a status
            storage.read_bytes("s3://bucket/runs/a.json")
        assert "(bucket bucket, key runs/a.json" in str(refused.value)


def test_what_answers_too_late_is_told():
    from botocore.exceptions import ReadTimeoutError

    said = explained(ReadTimeoutError(endpoint_url="http://s"), "s3://b/k")
    assert "does not answer in time (bucket b, key k" in said


def test_a_store_is_refused_before_any_work_where_its_url_cannot_work(tmp_path):
    for url, said in {
        "s3:/one-slash/x": "slashes are missing; s3://one-slash/x",
        "foo://bucket/x": "always opened: s3",
        "http://host/x": "HUBBUB_ALLOW_URLS",
    }.items():
        with pytest.raises(InputError, match=re.escape(said)):
            storage.check_store(url)
    storage.check_store(str(tmp_path))
    storage.check_store(f"memory://{tmp_path.name}")  # writes, is refused a second write, and reads


def test_other_urls_are_opened_only_where_they_are_listed(monkeypatch):
    monkeypatch.delenv("HUBBUB_ALLOW_URLS")
    check_url("s3://bucket/a.flac")
    refused = (
        "http://169.254.169.254/metadata/secret",
        "https://example.org/a.wav",
        "file:///etc/passwd",
        "local:///etc/passwd",
        "ftp://host/a",
        "memory://a",
        "data://x",
        "simplecache::file:///etc/passwd",
        "simplecache::s3://bucket/x",
    )
    for url in refused:
        with pytest.raises(RefusedURLError):
            check_url(url)
        with pytest.raises(RefusedURLError):
            storage.read_bytes(url)
    monkeypatch.setenv("HUBBUB_ALLOW_URLS", "http://127.0.0.1:8000/a, https://, simplecache::file://")
    check_url("http://127.0.0.1:8000/a/b.wav")
    for url in (
        "http://127.0.0.1:8000/b.wav",
        "http://127.0.0.1:8000/abc",
        "https://127.0.0.1/x",  # a scheme alone lets nobody in here
        "https://[::1]/x",
        "https://10.0.0.1/x",
        "simplecache::file:///etc/passwd",
    ):
        with pytest.raises(RefusedURLError):
            check_url(url)
    check_url("https://93.184.216.34/a.wav")

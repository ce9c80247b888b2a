"""Requests to a dashboard."""

import http.client
import json
import time

#: Longest wait for what must come, seconds.
PATIENCE_S = 60


def wait_until(is_so):
    deadline = time.monotonic() + PATIENCE_S
    while not (found := is_so()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


def ask(place, path, method="GET", body=None, host=None, **headers):
    """Send a request; return its status, its headers and its body."""
    connection = http.client.HTTPConnection("127.0.0.1", place.port, timeout=PATIENCE_S)
    try:
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body, {"Host": host or f"127.0.0.1:{place.port}", **headers})
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()
    finally:
        connection.close()


def fetch(place, path):
    status, _, body = ask(place, path, Authorization=f"Bearer {place.token}")
    assert status == 200, body
    return json.loads(body)

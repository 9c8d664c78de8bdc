#!/usr/bin/env python3
"""A small service with two tenants, to try Headgate on a repository of your own.

    service.py PORT VERSION ENVIRONMENT [OTLP-URL]

Nothing in it knows Headgate. It needs Python 3.9 and its standard library.
"""
import json
import sys
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PORT, VERSION, ENVIRONMENT = int(sys.argv[1]), sys.argv[2], sys.argv[3]
OTLP = sys.argv[4] if len(sys.argv) > 4 else "http://127.0.0.1:4318"
TOKENS = {"Bearer token-of-acme": "acme", "Bearer token-of-globex": "globex"}
ORDERS = {"1": {"tenant": "acme", "order": {"id": "1", "items": 3, "total": 42.5}}}
OPENAPI = {
    "openapi": "3.0.3",
    "info": {"title": "orders", "version": "1"},
    "paths": {"/orders/{id}": {"get": {"responses": {"200": {"description": "an order"}}}}},
}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if self.path == "/healthz":
            return self.answer(200, {})
        if self.path == "/openapi.json":
            return self.answer(200, OPENAPI)
        tenant = TOKENS.get(self.headers.get("Authorization"))
        if tenant is None:
            return self.answer(401, {"error": "unauthorized"})
        found = ORDERS.get(self.path[len("/orders/"):])
        if found is None or found["tenant"] != tenant:
            return self.answer(404, {"error": "not found"})
        self.answer(200, found["order"])

    def answer(self, status, body):
        raw = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, *_):
        pass


def attribute(key, value):
    return {"key": key, "value": {"stringValue": value}}


def report():
    """Send one metric every second, as an OpenTelemetry SDK would."""
    start, beats = time.time_ns(), 0
    resource = {"attributes": [
        attribute("service.name", "orders"), attribute("service.version", VERSION),
        attribute("deployment.environment.name", ENVIRONMENT), attribute("service.instance.id", str(PORT)),
    ]}
    while True:
        beats += 1
        point = {"startTimeUnixNano": str(start), "timeUnixNano": str(time.time_ns()), "asInt": str(beats)}
        beat = {"name": "orders.beats", "unit": "{beat}", "sum": {"dataPoints": [point], "aggregationTemporality": 2, "isMonotonic": True}}
        body = json.dumps({"resourceMetrics": [{"resource": resource, "scopeMetrics": [{"metrics": [beat]}]}]}).encode()
        request = urllib.request.Request(OTLP + "/v1/metrics", body, {"Content-Type": "application/json"})
        try:
            urllib.request.urlopen(request, timeout=2).close()
        except OSError:
            pass  # telemetry must never stop the service
        time.sleep(1)


threading.Thread(target=report, daemon=True).start()
ThreadingHTTPServer(("127.0.0.1", PORT), Handler).serve_forever()

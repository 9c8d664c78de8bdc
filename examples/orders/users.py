#!/usr/bin/env python3
"""Users of the service: 8 at a time, each request a session of its own.

    users.py ADDRESS SECONDS
"""
import http.client
import sys
import threading
import time
import uuid

ADDRESS, UNTIL = sys.argv[1], time.time() + float(sys.argv[2])


def user():
    connection = http.client.HTTPConnection(ADDRESS, timeout=10)
    while time.time() < UNTIL:
        headers = {"Authorization": "Bearer token-of-acme", "x-tenant-id": "acme", "x-session-id": uuid.uuid4().hex}
        try:
            connection.request("GET", "/orders/1", headers=headers)
            connection.getresponse().read()
        except (OSError, http.client.HTTPException):
            connection.close()
        time.sleep(0.02)


threads = [threading.Thread(target=user) for _ in range(8)]
for t in threads:
    t.start()
for t in threads:
    t.join()

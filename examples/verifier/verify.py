#!/usr/bin/env python3
"""Verify a Headgate bundle without Headgate.

    verify.py BUNDLE.zip [--key NAME+HASH+BASE64|FILE]... [--checkpoint FILE]

Needs Python 3.9 and its standard library. Written from docs/bundle-format.md
alone, so that nobody has to take Headgate's word for Headgate's evidence. It
checks signatures, inclusion, consistency, digests, and that each gate's verdict
follows from its recorded values and rule set. It has no evaluator for rules of
one's own written in CEL: each is named in a line NOT_JUDGED_AGAIN. Exit status:
0 all holds, 1 findings, 2 the file cannot be read, 3 all holds as far as it was
judged, but for the rules named.
"""
import argparse
import base64
import datetime
import hashlib
import json
import math
import os
import struct
import sys
import zipfile
import zlib

# --- ed25519, RFC 8032 section 5.1, verification only -----------------------
P = 2**255 - 19
L = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, P) % P
SQRT_M1 = pow(2, (P - 1) // 4, P)


def add(p, q):
    a, b = (p[1] - p[0]) * (q[1] - q[0]) % P, (p[1] + p[0]) * (q[1] + q[0]) % P
    c, d = 2 * p[3] * q[3] * D % P, 2 * p[2] * q[2] % P
    e, f, g, h = b - a, d - c, d + c, b + a
    return (e * f % P, g * h % P, f * g % P, e * h % P)


def multiply(s, p):
    q = (0, 1, 1, 0)
    while s > 0:
        if s & 1:
            q = add(q, p)
        p, s = add(p, p), s >> 1
    return q


def decompress(raw):
    y = int.from_bytes(raw, "little")
    sign, y = y >> 255, y & ((1 << 255) - 1)
    if y >= P:
        return None
    x2 = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = pow(x2, (P + 3) // 8, P)
    if (x * x - x2) % P:
        x = x * SQRT_M1 % P
    if (x * x - x2) % P or (x == 0 and sign):
        return None
    if x & 1 != sign:
        x = P - x
    return (x, y, 1, x * y % P)


BASE = decompress((4 * pow(5, -1, P) % P).to_bytes(32, "little"))


def signature_ok(key, message, signature):
    if len(key) != 32 or len(signature) != 64:
        return False
    a, s = decompress(key), int.from_bytes(signature[32:], "little")
    if a is None or s >= L:
        return False
    k = int.from_bytes(hashlib.sha512(signature[:32] + key + message).digest(), "little") % L
    # R = sB - kA, compared in its compressed form.
    x, y, z, _ = add(multiply(s, BASE), multiply(k, (P - a[0], a[1], 1, P - a[3])))
    inverse = pow(z, -1, P)
    x, y = x * inverse % P, y * inverse % P
    return (y | (x & 1) << 255).to_bytes(32, "little") == signature[:32]


# --- the Merkle log, RFC 6962 section 2.1 ------------------------------------
def node(left, right):
    return hashlib.sha256(b"\x01" + left + right).digest()


def split(n):
    """The largest power of two below n."""
    return 1 << (n - 1).bit_length() - 1


def root_from_inclusion(proof, size, index, leaf):
    if size == 1:
        return leaf if not proof and index == 0 else None
    if not proof or not 0 <= index < size:
        return None
    k = split(size)
    if index < k:
        below = root_from_inclusion(proof[:-1], k, index, leaf)
        return below and node(below, proof[-1])
    below = root_from_inclusion(proof[:-1], size - k, index - k, leaf)
    return below and node(proof[-1], below)


def roots_from_consistency(proof, old, new, old_root, whole=True):
    """The roots of the trees of sizes old and new that the proof implies."""
    if old == new:
        if whole:
            return (old_root, old_root) if not proof else (None, None)
        return (proof[0], proof[0]) if len(proof) == 1 else (None, None)
    if not proof:
        return None, None
    k, last = split(new), proof[-1]
    if old <= k:
        a, b = roots_from_consistency(proof[:-1], old, k, old_root, whole)
        return a, b and node(b, last)
    a, b = roots_from_consistency(proof[:-1], old - k, new - k, old_root, False)
    return a and node(last, a), b and node(last, b)


PREDICATE = "https://headgate.dev/attestation/"
GATE_D = ("quality", "performance", "security", "cost")

# What follows from two values: the candidate's over, or less, the baseline's. In a
# ratio no value counts as less than the rule set's floor.
COMPUTED = {
    "task_cost_p95_ratio": ("task_cost_p95", "baseline_task_cost_p95", lambda a, b, floor: a / b),
    "api_p95_ratio": ("candidate_api_p95_s", "baseline_api_p95_s", lambda a, b, floor: max(a, floor) / max(b, floor)),
    "api_error_rate_increase": ("candidate_api_error_rate", "baseline_api_error_rate", lambda a, b, floor: a - b),
}


# --- formats -----------------------------------------------------------------
def digest(content):
    return "sha256:" + hashlib.sha256(content).hexdigest()


def encoded(raw):
    return base64.b64encode(raw).decode()


def decoded(text):
    """Base64 in its one spelling."""
    raw = base64.b64decode(text, validate=True)
    if encoded(raw) != text:
        raise ValueError("not the base64 that an encoder writes")
    return raw


def document(raw):
    """JSON that no two readers can read differently: UTF-8, finite, no name twice in an object."""

    def once(pairs):
        if len({name for name, _ in pairs}) != len(pairs):
            raise ValueError("a name occurs twice in one object")
        return dict(pairs)

    def finite(text):
        if not math.isfinite(float(text)):
            raise ValueError("a number is not finite")
        return float(text)

    return json.loads(raw.decode(), object_pairs_hook=once, parse_float=finite, parse_constant=finite)


FIELDS = """_type subject predicateType predicate release_id release outcome statements members gate request thresholds values
checks failed_checks verdict inputs rules declared name code value threshold op samples min_samples comparisons accept_tool_codes
stage facts ended_at requested_by approved_by reason requested_at time expires_at""".split()
FOLDED = {name.casefold() for name in FIELDS}


def spelled(*objects):
    """Whether no name is a field's in other letters, which some readers take for it."""
    return all(name in FIELDS or name.casefold() not in FOLDED for o in objects for name in o)


def is_number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def same(a, b):
    """Equal, and not only as 1 and True are."""
    return a == b and isinstance(a, bool) == isinstance(b, bool)


def archive(members):
    """The bytes of the ZIP file that members give."""
    local, central = [], []
    offset = 0
    for name in sorted(members, key=lambda n: n.encode()):
        raw, content = name.encode(), members[name]
        common = struct.pack("<HHHHHIIIHH", 20, 0, 0, 0, 0x21, zlib.crc32(content), len(content), len(content), len(raw), 0)
        local += [b"PK\x03\x04", common, raw, content]
        central += [b"PK\x01\x02\x14\x00", common, struct.pack("<HHHII", 0, 0, 0, 0, offset), raw]
        offset += 30 + len(raw) + len(content)
    size = sum(map(len, central))
    end = struct.pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, len(members), len(members), size, offset, 0)
    return b"".join(local + central + [end])


def instant(text):
    """A time in UTC; what is below a microsecond decides nothing."""
    whole, _, fraction = text.rstrip("Z").partition(".")
    return datetime.datetime.fromisoformat(whole) + datetime.timedelta(microseconds=int(fraction[:6].ljust(6, "0")))


class Key:
    """A note verifier key: name+hash+base64(0x01 || 32 bytes)."""

    def __init__(self, text):
        self.name, hash_hex, key = text.strip().split("+", 2)
        raw = decoded(key)
        self.hash = hashlib.sha256(self.name.encode() + b"\n" + raw).digest()[:4]
        if len(raw) != 33 or raw[0] != 1 or self.hash.hex() != hash_hex:
            raise ValueError("not an ed25519 key")
        self.raw = raw[1:]
        self.id = hashlib.sha256(self.raw).hexdigest()[:32]


class Verification:
    def __init__(self, members, keys):
        self.members, self.findings, self.notes, self.unjudged = members, [], [], []
        own = {}
        for name in self.folder("keys/"):
            try:
                key = Key(members[name].decode())
                own[key.id] = key
                if name != f"keys/{key.id}.pub":
                    self.find("MEMBER_INVALID", name, f"it holds key {key.id}, which its name does not say")
            except ValueError:
                self.find("MEMBER_INVALID", name, "it is not a public key")
        self.keys = {k.id: k for k in keys} or own
        if not keys:
            self.notes.append("no key was given with --key: signatures were checked against the bundle's own keys")
        self.decisions, self.overrides, self.admitted, self.full = {}, [], None, False
        self.by_index, self.latest, self.searches = {}, {}, 0
        self.last_key, self.replaced = None, set()

    def folder(self, prefix):
        return sorted(n for n in self.members if n.startswith(prefix))

    def find(self, code, member, message):
        self.findings.append(self.line(code, member, message))

    def line(self, code, member, message):
        return "".join(c if c.isprintable() else "\ufffd" for c in f"{code} {member}: {message}")

    def open(self, name):
        """Return the statement in a DSSE envelope and its key, reporting a bad signature."""
        try:
            envelope = document(self.members[name])
            payload = base64.b64decode(envelope["payload"])
            statement = document(payload)
            kind = envelope["payloadType"]
            signatures = [(s["keyid"], base64.b64decode(s["sig"])) for s in envelope["signatures"]]
            predicate = statement["predicate"]
            if not spelled(statement, predicate, *(predicate.get("checks") or [])):
                raise ValueError
            if kind != "application/vnd.in-toto+json" or statement["_type"] != "https://in-toto.io/Statement/v1":
                raise ValueError
        except (ValueError, KeyError, TypeError, AttributeError):
            self.find("MEMBER_INVALID", name, "it is not a signed in-toto statement, or can be read in more than one way")
            return None, None
        written = {"payloadType": kind, "payload": encoded(payload), "signatures": [{"keyid": i, "sig": encoded(s)} for i, s in signatures]}
        if json.dumps(written, separators=(",", ":")).encode() != self.members[name]:
            self.find("MEMBER_INVALID", name, "its envelope is not written in the one documented way")
        if len(signatures) != 1:
            self.find("SIGNATURE_INVALID", name, f"it carries {len(signatures)} signatures and not one")
            return statement, None
        message = b"DSSEv1 %d %s %d %s" % (len(kind), kind.encode(), len(payload), payload)
        key, signature = signatures[0]
        if key not in self.keys:
            self.find("KEY_UNTRUSTED", name, f"it is signed by {key}, which is not to be believed")
        elif not signature_ok(self.keys[key].raw, message, signature):
            self.find("SIGNATURE_INVALID", name, "the signature does not match: it was changed after it was signed")
        return statement, key

    def check_key_order(self, name, key):
        """What a key has replaced signs nothing any more; the manifest is signed last."""
        if key is None or key == self.last_key:
            return
        if key in self.replaced:
            self.find("KEY_UNTRUSTED", name, f"it is signed with key {key}, which key {self.last_key} had replaced before")
            return
        self.replaced.add(self.last_key)
        self.last_key = key

    def checkpoint(self, name, note):
        """Return (origin, size, root) of a signed note, or None."""
        try:
            text, signatures = note.decode().rsplit("\n\n", 1)
            text += "\n"
            origin, size, root = text.split("\n")[:3]
            result = origin, int(size), decoded(root)
            if str(result[1]) != size or result[1] < 0 or len(result[2]) != 32:
                raise ValueError
            lines = [s.split(" ") for s in signatures.strip().split("\n")]
        except (ValueError, AttributeError):
            self.find("CHECKPOINT_INVALID", name, "it is not a signed note")
            return None
        for dash, signer, signature in (line for line in lines if len(line) == 3):
            raw = base64.b64decode(signature)
            for key in self.keys.values():
                if dash == "\u2014" and signer == key.name and raw[:4] == key.hash:
                    if signature_ok(key.raw, text.encode(), raw[4:]):
                        return result
                    self.find("CHECKPOINT_INVALID", name, "the signature does not match: it was changed after it was signed")
                    return None
        self.find("KEY_UNTRUSTED", name, "it is not signed by a key to be believed")
        return None

    def run(self, kept):
        manifest, key = self.check_manifest()
        self.check_members(manifest)
        tree = self.check_checkpoints(kept)
        order = [s["index"] for s in manifest.get("statements", [])]
        if order != sorted(set(order)):
            self.find("ENTRY_REORDERED", "manifest.dsse.json", "its entries are not listed by rising index")
        for name in self.folder("statements/"):
            self.check_statement(name, tree, manifest)
        self.check_key_order("manifest.dsse.json", key)
        self.check_exports()
        release = manifest.get("release", {})
        for gate in GATE_D if release.get("outcome") == "promoted" else ():
            last = self.decisions.get(gate)
            if last is None or last["verdict"] != "pass" or last.get("declared"):
                if any(self.override_holds(o, gate) for o in self.overrides):
                    self.notes.append(f"gate {gate} did not pass: two people let the release pass it")
                    continue
                self.find("OUTCOME_UNSUPPORTED", "manifest.dsse.json", f"the release was promoted without a pass of gate {gate}")

    def override_holds(self, o, gate):
        """Two people let a gate pass, never security, before the release met users and until after."""
        people, day = {o["requested_by"], o["approved_by"]} - {""}, datetime.timedelta(hours=24)
        if o["gate"] != gate or gate == "security" or len(people) != 2 or not o["reason"] or self.admitted is None:
            return False
        asked, granted, until = (instant(o[k]) for k in ("requested_at", "time", "expires_at"))
        return until <= asked + day and granted <= self.admitted < until + datetime.timedelta(minutes=1)

    def check_manifest(self):
        if "manifest.dsse.json" not in self.members:
            self.find("MEMBER_MISSING", "manifest.dsse.json", "there is no manifest")
            return {}, None
        statement, key = self.open("manifest.dsse.json")
        if not statement or statement.get("predicateType") != PREDICATE + "bundle/v1" or len(statement["subject"]) != 1:
            self.find("MANIFEST_INVALID", "manifest.dsse.json", "it is not a manifest")
            return {}, None
        self.subject, manifest = statement["subject"], statement["predicate"]
        algorithm, _, value = manifest["release"]["digest"].partition(":")
        names = {self.subject[0]["name"], manifest["release_id"], manifest["release"]["release_id"]}
        if len(names) != 1 or not value or self.subject[0]["digest"].get(algorithm) != value:
            self.find("SUBJECT_MISMATCH", "manifest.dsse.json", "its subject is not the release that it describes")
        return manifest, key

    def check_members(self, manifest):
        listed = {m["name"]: m["digest"] for m in manifest.get("members", [])}
        for name, want in listed.items():
            if name not in self.members:
                self.find("MEMBER_MISSING", name, "the manifest lists it, but it is not in the bundle")
            elif digest(self.members[name]) != want:
                self.find("MEMBER_CHANGED", name, "it is not the file that the manifest lists")
        for name in self.members:
            if manifest and name not in listed and name != "manifest.dsse.json":
                self.find("MEMBER_UNEXPECTED", name, "the manifest does not list it")
        for name in self.folder("blobs/sha256/"):
            if digest(self.members[name]) != "sha256:" + name.rsplit("/", 1)[1]:
                self.find("MEMBER_CHANGED", name, "its content does not have the digest that is its name")

    def check_checkpoints(self, kept):
        if "checkpoint" not in self.members:
            self.find("MEMBER_MISSING", "checkpoint", "nothing can be proven to be in the log")
            return None
        tree = self.checkpoint("checkpoint", self.members["checkpoint"])
        if tree is None:
            return None
        proof = document(self.members.get("consistency.json", b"{}"))
        earlier = [("earlier-checkpoint", self.members["earlier-checkpoint"])] if "earlier-checkpoint" in self.members else []
        if kept is None:
            self.notes.append("no --checkpoint was given: that the whole log was rewritten cannot be ruled out")
        else:
            earlier.append(("the checkpoint that you kept", kept))
        for name, note in earlier:
            old = self.checkpoint(name, note)
            if old is None or old[1] == 0 or old == tree:
                continue
            if old[0] != tree[0] or old[1] >= tree[1]:
                self.find("CHECKPOINT_FORKED", "checkpoint", f"its log does not continue {name}")
            elif (proof.get("from"), proof.get("to")) != (old[1], tree[1]):
                self.find("CHECKPOINT_UNPROVEN", "consistency.json", f"there is no proof that the log continues {name}")
            else:
                hashes = [decoded(h) for h in proof["hashes"]]
                if roots_from_consistency(hashes, old[1], tree[1], old[2]) != (old[2], tree[2]):
                    self.find("CHECKPOINT_FORKED", "checkpoint", f"its log does not begin with the {old[1]} entries of {name}")
        return tree

    def check_statement(self, name, tree, manifest):
        statement, key = self.open(name)
        index = int(name[len("statements/"):].split(".")[0])
        if name != f"statements/{index:010d}.dsse.json":
            self.find("MEMBER_INVALID", name, "its name does not give its place in the log")
        if tree and not self.included(name, index, tree):
            self.find_misplaced(name, index, tree)
        if statement is None:
            return
        self.check_key_order(name, key)
        kind, predicate = statement["predicateType"], statement["predicate"]
        if manifest and (statement["subject"] != self.subject or predicate["release_id"] != self.subject[0]["name"]):
            self.find("SUBJECT_MISMATCH", name, "it is about another release")
        if manifest and {"index": index, "predicate_type": kind, "digest": digest(self.members[name])} not in manifest["statements"]:
            self.find("MANIFEST_INVALID", name, "the manifest lists another statement for this place in the log")
        if kind == PREDICATE + "audit-event/v1":
            return
        needed = [i["digest"] for i in predicate.get("inputs") or []]
        needed += [predicate["rules"]["digest"]] if predicate.get("rules", {}).get("digest") else []
        for d in needed:
            if "blobs/sha256/" + d.split(":")[-1] not in self.members:
                self.find("MEMBER_MISSING", "blobs/sha256/" + d.split(":")[-1], f"statement {index} rests on it")
        if kind == PREDICATE + "stage-result/v1":
            self.full = self.full or predicate["stage"] == "full"
            if predicate["stage"] == "rollout" and predicate["verdict"] == "pass" and (predicate.get("facts") or {}).get("gate") is None:
                self.admitted = self.admitted or instant(predicate["ended_at"])
        if kind == PREDICATE + "override/v1" and not self.full:
            self.overrides.append(predicate)
        if kind == PREDICATE + "gate-decision/v1":
            self.by_index[index] = self.latest[predicate["gate"]] = predicate
            if not self.full:  # later decisions did not admit the release
                self.decisions[predicate["gate"]] = predicate
            self.check_decision(name, predicate)

    def included(self, name, index, tree):
        """Whether a statement is an entry of the log, by the proof for index."""
        try:
            proof = document(self.members.get(f"proofs/{index:010d}.json", b"{}"))
            hashes = [decoded(h) for h in proof.get("hashes") or []]
        except (ValueError, TypeError, AttributeError):
            return False
        leaf = hashlib.sha256(b"\x00" + self.members[name]).digest()
        fits = (proof.get("index"), proof.get("tree_size")) == (index, tree[1])
        return fits and root_from_inclusion(hashes, tree[1], index, leaf) == tree[2]

    def find_misplaced(self, name, index, tree):
        for proof in self.folder("proofs/"):
            other = proof[len("proofs/"):].split(".")[0]
            self.searches += 1
            if self.searches < 100_000 and other.isdigit() and self.included(name, int(other), tree):
                self.find("ENTRY_REORDERED", name, f"it is given as entry {index}, but it is entry {int(other)} of the log")
                return
        self.find("INCLUSION_UNPROVEN", name, f"it is not entry {index} of the log")

    def check_exports(self):
        """The copies for other tools must say what the log says."""
        for name in self.folder("exports/"):
            statement, _ = self.open(name)
            if statement is None:
                continue
            says = statement["predicate"].get("result", statement["predicate"].get("verificationResult"))
            if name == "exports/summary.vsa.dsse.json":
                last = [self.latest.get(g, {}) for g in GATE_D]
                passed = all(d.get("verdict") == "pass" and not d.get("declared") for d in last)
            else:
                decision = self.by_index.get(int(name[len("exports/"):].split(".")[0]), {})
                passed = decision.get("verdict") == "pass"
            if says != ("PASSED" if passed else "FAILED"):
                self.find("EXPORT_MISMATCH", name, f"it says {says}, which the log's decisions do not")

    def check_decision(self, name, d):
        order = ["fail", "broken", "insufficient", "pass"]
        verdicts = [c["verdict"] for c in d["checks"]]
        if d["verdict"] != next((v for v in order if v in verdicts), "insufficient"):
            self.find("VERDICT_FORGED", name, f"gate {d['gate']} is recorded as {d['verdict']}, its checks give {verdicts}")
        if len(d["failed_checks"]) != len([v for v in verdicts if v != "pass"]):
            self.find("VERDICT_FORGED", name, f"gate {d['gate']} lists {d['failed_checks']}, its checks give {verdicts}")
        raw = self.members.get("blobs/sha256/" + d["rules"]["digest"].split(":")[-1])
        rules = document(raw) if raw else {}
        if not spelled(rules):
            self.find("MEMBER_INVALID", "blobs/sha256/" + d["rules"]["digest"].split(":")[-1], "the rule set can be read in more than one way")
        for c in d["checks"]:
            compared = rules.get("comparisons", {}).get(d["gate"], {}).get(c["name"], {})
            self.check_check(name, d, c, compared.get("floor_s", 0))
        thresholds = dict(rules.get("thresholds", {}).get(d["gate"], {}))
        least = dict(rules.get("min_samples", {}).get(d["gate"], {}))
        for check, limit in rules.get("comparisons", {}).get(d["gate"], {}).items():
            thresholds[check + "_max"], least[check] = limit["max"], limit["min_samples"]
            if check not in [c["name"] for c in d["checks"]]:
                self.find("VERDICT_FORGED", name, f"gate {d['gate']} lacks the check {check}, which its rule set asks for")
        if raw and thresholds != d["thresholds"]:
            self.find("THRESHOLD_SWAPPED", name, f"gate {d['gate']} shows thresholds that its rule set does not have")
        if raw:
            self.check_tools(name, d, rules.get("accept_tool_codes", {}).get(d["gate"], []))
        for c in d["checks"] if raw else ():
            if least.get(c["name"], 0) != c["min_samples"]:
                self.find("THRESHOLD_SWAPPED", name, f"check {c['name']} demands another number of samples than its rule set")

    def check_tools(self, name, d, accepted):
        """The checks on tools' own runs follow from what the request says of each and from what the rules accept."""
        want = []
        for t in (d.get("request") or {}).get("tools") or []:
            if t.get("digest") and t["digest"] not in [i["digest"] for i in d["inputs"]]:
                self.find("VERDICT_FORGED", name, f"gate {d['gate']} judged the run behind {t['file']}, which is none of its files")
            for p in t.get("problems") or [{"code": "TOOL_REPORT_FAILED", "verdict": t["verdict"]}]:
                want.append(("tool/" + t["file"], p["code"], "pass" if p["code"] in accepted else p["verdict"]))
        got = [(c["name"], c["code"], c["verdict"]) for c in d["checks"] if c["op"] == "tool"]
        if got != want:
            self.find("VERDICT_FORGED", name, f"gate {d['gate']} shows tool runs as {got}, its request and its rules give {want}")

    def check_check(self, name, d, c, floor):
        value, limit, op = c["value"], c["threshold"], c["op"]
        if op == "cel":
            self.unjudged.append(self.line("NOT_JUDGED_AGAIN", name, f"rule {c['name']} of gate {d['gate']} is written in CEL; recorded as {c['verdict']}"))
            return
        if op == "tool":
            if c["verdict"] == "pass" and (c["value"] is None or c["value"] != c["threshold"]):
                self.find("VERDICT_FORGED", name, f"check {c['name']} is recorded as passed, its value is {c['value']}")
            return
        holds = None
        if isinstance(value, bool) and isinstance(limit, bool):
            holds = value == limit
        elif is_number(value) and is_number(limit):
            slack = 1e-12 * max(abs(value), abs(limit))
            holds = {">=": value >= limit - slack, "<=": value <= limit + slack, "==": abs(value - limit) <= slack}[op]
        if c["name"] in COMPUTED and value is not None:
            candidate, baseline, compute = COMPUTED[c["name"]]
            both = d["values"].get(candidate), d["values"].get(baseline)
            if None not in both and abs(compute(*both, floor) - value) > 1e-9 * max(1, abs(value)):
                self.find("VERDICT_FORGED", name, f"check {c['name']} has the value {value}, which does not follow from {both[0]} and {both[1]}")
        few = c["min_samples"] > 0 and (c["samples"] is None or c["samples"] < c["min_samples"])
        if c["verdict"] == "pass" and (not holds or few) or c["verdict"] == "fail" and holds:
            self.find("VERDICT_FORGED", name, f"check {c['name']} is recorded as {c['verdict']}: {value} {op} {limit}, {c['samples']} samples")
        if not same(d["values"].get(c["name"], value), value):
            self.find("VERDICT_FORGED", name, f"check {c['name']} has the value {value}, the decision shows {d['values'][c['name']]}")
        if not any(same(limit, d["thresholds"].get(c["name"] + s)) for s in ("_min", "_max", "_required")):
            self.find("THRESHOLD_SWAPPED", name, f"check {c['name']} was made against {limit}, which the decision does not show")


def read(path):
    """The members of a bundle; stored only, so that nothing can blow up."""
    with zipfile.ZipFile(path) as bundle:
        infos = bundle.infolist()
        names = [i.filename for i in infos]
        if len(set(names)) != len(names) or any(i.compress_type != zipfile.ZIP_STORED for i in infos):
            raise zipfile.BadZipFile("a member occurs twice or is compressed")
        return {i.filename: bundle.read(i) for i in infos}


def trusted(given):
    """The keys given as text, or as files with one key per line."""
    for text in given:
        if os.path.exists(text):
            with open(text) as file:
                text = file.read()
        yield from (Key(line) for line in text.split())


def main():
    parser = argparse.ArgumentParser(usage="verify.py BUNDLE.zip [--key KEY|FILE]... [--checkpoint FILE]", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle")
    parser.add_argument("--key", action="append", default=[], help="a public key that you trust, or a file of them (repeatable)")
    parser.add_argument("--checkpoint", help="a file with a checkpoint that you kept")
    options = parser.parse_args()
    try:
        keys = list(trusted(options.key))
    except (OSError, ValueError) as problem:
        parser.error(f"--key is neither a key, name+hash+base64, nor a file of keys: {problem}")
    try:
        members = read(options.bundle)
        kept = open(options.checkpoint, "rb").read() if options.checkpoint else None
        verification = Verification(members, keys)
    except (OSError, ValueError, zipfile.BadZipFile) as problem:
        print(f"BUNDLE_UNREADABLE: {problem}")
        return 2
    try:
        verification.run(kept)
    except (KeyError, TypeError, ValueError, AttributeError) as problem:
        verification.find("MEMBER_INVALID", "?", f"a document does not have the documented form: {problem!r}")
    if not verification.findings and open(options.bundle, "rb").read() != archive(members):
        verification.find("ARCHIVE_ALTERED", "", "the ZIP structure was changed after the bundle was made")
    for line in verification.findings + verification.unjudged:
        print(line)
    for line in sorted(set(verification.notes)):
        print("note:", line)
    if not verification.findings:
        print(f"ok: {len(verification.folder('statements/'))} statements, {len(verification.folder('blobs/'))} files")
    return 1 if verification.findings else 3 if verification.unjudged else 0


if __name__ == "__main__":
    sys.exit(main())

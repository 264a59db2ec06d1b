"""Servers that are made of moto: what stands in front of it, and answers some requests by itself."""

from __future__ import annotations

import base64
import email.parser
import email.policy
import hashlib
import hmac
import http.client
import json
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlencode

from tests.http_server import HttpServer, Request, Response

if TYPE_CHECKING:
    from tests import services

_OURS = {"content-length", "content-type", "transfer-encoding", "connection", "date", "server"}


class InFront(HttpServer):
    """Passes everything on to *s3*."""

    def __init__(self, s3: services.S3) -> None:
        super().__init__()
        self.s3 = s3

    def passed_on(self, request: Request, path: str) -> Response:
        connection = http.client.HTTPConnection(self.s3.endpoint.removeprefix("http://"))
        connection.request(request.method, path, request.body, request.headers)
        answer = connection.getresponse()
        body = bytes(int(answer.getheader("Content-Length", 0))) if request.method == "HEAD" else answer.read()
        connection.close()
        headers = tuple((name, value) for name, value in answer.getheaders() if name.lower() not in _OURS)
        return Response(answer.status, body, answer.getheader("Content-Type", ""), headers)

    def respond(self, request: Request) -> Response:
        return self.passed_on(request, request.target)


class Odd(InFront):
    """Speaks S3 in part, as some servers do."""

    way = ""
    """How lists of two go on: ``v2 without token``, ``v1``, ``v1 with marker``, ``no way``, ``loop``."""
    no_versions = 0
    """The status of its answer to ListObjectVersions."""
    keeps_all = False
    """It answers 204 to DELETE, and deletes nothing."""
    odd_etags = False
    """Its ETags look like an MD5 and are none."""

    def respond(self, request: Request) -> Response:
        path, _, query = request.target.partition("?")
        asked = dict(parse_qsl(query, keep_blank_values=True))
        of_bucket = request.method == "GET" and path.strip("/") == self.s3.bucket
        if self.no_versions and of_bucket and "versions" in asked:
            code = {501: "NotImplemented", 405: "MethodNotAllowed"}[self.no_versions]
            return Response(self.no_versions, f"<Error><Code>{code}</Code></Error>", "application/xml")
        if self.keeps_all and (request.method == "DELETE" or "delete" in asked):
            return Response(200 if asked else 204, "<DeleteResult/>" if "delete" in asked else "", "application/xml")
        if self.way and of_bucket and asked.keys() & {"versions", "prefix", "list-type"}:
            return self._list(request, path, asked)
        answer = self.passed_on(request, request.target)
        if self.odd_etags:
            headers = [(name, f'"{"0" * 32}"' if name.lower() == "etag" else value) for name, value in answer.headers]
            return Response(answer.status, answer.body, answer.content_type, tuple(headers))
        return answer

    def _list(self, request: Request, path: str, asked: dict[str, str]) -> Response:
        if self.way != "v2 without token" and "versions" not in asked:
            asked = {name: value for name, value in asked.items() if name not in {"list-type", "start-after"}}
        if self.way == "loop":
            asked = {name: value for name, value in asked.items() if not name.endswith("marker")}
        answer = self.passed_on(request, f"{path}?{urlencode(asked | {'max-keys': '2'})}")
        assert isinstance(answer.body, bytes)
        left_out = "Next\\w+" if self.way != "v1 with marker" else "NextContinuationToken"
        if self.way == "no way":
            left_out += "|Contents|Version|DeleteMarker"
        body = re.sub(rf"<({left_out})>.*?</\1>".encode(), b"", answer.body, flags=re.DOTALL)
        return Response(answer.status, body, answer.content_type, answer.headers)


class ForBrowsers(InFront):
    """Keeps the bucket's CORS rules and the policies of forms as Amazon does; moto lets every origin and form pass."""

    def respond(self, request: Request) -> Response:
        origin, asked = request.header("Origin"), request.header("Access-Control-Request-Method")
        allowed = self._cors(origin, asked or request.method)
        if request.method == "OPTIONS":
            return Response(status=200 if allowed else 403, headers=allowed)
        if request.method == "POST" and (problem := self._problem(request)):
            return Response(status=403, body=f"<Error><Code>{problem}</Code></Error>", headers=allowed)
        answer = self.passed_on(request, request.target)
        kept = [each for each in answer.headers if not each[0].lower().startswith("access-control-")]
        return Response(answer.status, answer.body, answer.content_type, (*kept, *allowed))

    def _cors(self, origin: str, method: str) -> tuple[tuple[str, str], ...]:
        try:
            rules = self.s3.client.get_bucket_cors(Bucket=self.s3.bucket)["CORSRules"]
        except self.s3.client.exceptions.ClientError:
            return ()
        for rule in rules:
            if origin in rule["AllowedOrigins"] and method in rule["AllowedMethods"]:
                return (
                    ("Access-Control-Allow-Origin", origin),
                    ("Access-Control-Allow-Methods", ", ".join(rule["AllowedMethods"])),
                    ("Access-Control-Allow-Headers", ", ".join(rule["AllowedHeaders"])),
                    ("Access-Control-Expose-Headers", ", ".join(rule.get("ExposeHeaders", ()))),
                )
        return ()

    def _problem(self, request: Request) -> str:
        """S3's code for a form that its policy, or the policy's signature, does not allow."""
        head = f"Content-Type: {request.header('Content-Type')}\r\n\r\n".encode()
        parts: Any = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(head + request.body)
        fields = {
            part.get_param("name", header="content-disposition"): part.get_payload(decode=True)
            for part in parts.iter_parts()
        }
        data = fields.pop("file")
        form = {name.lower(): value.decode() for name, value in fields.items()}
        key = f"AWS4{self.s3.secret_key}".encode()
        for step in form["x-amz-credential"].split("/")[1:]:
            key = hmac.digest(key, step.encode(), hashlib.sha256)
        if hmac.new(key, form["policy"].encode(), hashlib.sha256).hexdigest() != form["x-amz-signature"]:
            return "SignatureDoesNotMatch"
        policy = json.loads(base64.b64decode(form["policy"]))
        if datetime.fromisoformat(policy["expiration"]) < datetime.now(UTC):
            return "AccessDenied"
        allowed = {"bucket": self.s3.bucket}
        for condition in policy["conditions"]:
            if isinstance(condition, dict):
                allowed |= {name.lower(): value for name, value in condition.items()}
            else:
                assert condition[0] == "content-length-range"
                if not condition[1] <= len(data) <= condition[2]:
                    return "EntityTooLarge"
        rest = {name: value for name, value in form.items() if name not in {"policy", "x-amz-signature"}}
        return "" if rest == {name: allowed[name] for name in rest if name in allowed} else "AccessDenied"

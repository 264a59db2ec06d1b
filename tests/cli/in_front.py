"""Servers that are made of moto: what stands in front of it, and answers some requests by itself."""

from __future__ import annotations

import base64
import email.parser
import email.policy
import hashlib
import hmac
import http.client
import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

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

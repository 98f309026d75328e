"""The token services of three clouds and the API server of a Kubernetes, with their published limits.

    sts.py RULES

RULES is a file of JSON that says whom each of them trusts. The port at which all of them listen is
printed; the end of the input ends them. What they grant says to whom it was granted, and by which
token: "granted SUB JTI".
"""

import datetime
import fnmatch
import json
import re
import ssl
import sys
import threading
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from xml.sax.saxutils import escape

from trust import Internet, Refused, audiences, demand, subject

RSA = ["RS256", "RS384", "RS512"]
EC = ["ES256", "ES384", "ES512"]


def granted(claims):
    return f"granted {claims['sub']} {claims.get('jti', '-')}"


class Form(dict):
    """The fields of a form, each of which comes once."""

    def __init__(self, body):
        fields = urllib.parse.parse_qs(body.decode(), strict_parsing=True)
        once = all(len(values) == 1 for values in fields.values())
        demand(once, "form", "a field comes twice")
        super().__init__({name: values[0] for name, values in fields.items()})

    def __missing__(self, name):
        raise Refused("form", f"{name} is missing")


def exact(form, **expected):
    for name, value in expected.items():
        demand(form.get(name) == value, "form", f"{name} is {form.get(name)}")


class Aws:
    """AssumeRoleWithWebIdentity, with the limits of its model."""

    def __init__(self, providers, roles, life):
        for url, clients in providers.items():
            place = urllib.parse.urlsplit(url)
            bare = (place.scheme, place.netloc) == ("https", place.hostname)
            assert bare and not place.query and len(url) <= 255, url
            assert len(clients) <= 100 and all(len(name) <= 255 for name in clients)
        self.providers, self.roles, self.life = providers, roles, life

    def answer(self, body):
        try:
            return 200, "text/xml", self.assume(Form(body))
        except Refused as error:
            code = {
                "form": "ValidationError",
                "unreachable": "IDPCommunicationError",
                "expired": "ExpiredTokenException",
                "role": "AccessDenied",
            }.get(error.reason, "InvalidIdentityToken")
            status = 403 if code == "AccessDenied" else 400
            return status, "text/xml", self.document(
                "ErrorResponse",
                f"<Error><Type>Sender</Type><Code>{code}</Code>"
                f"<Message>{escape(str(error))}</Message></Error>",
            )

    def assume(self, form):
        exact(form, Action="AssumeRoleWithWebIdentity", Version="2011-06-15")
        role, name = form["RoleArn"], form["RoleSessionName"]
        token, seconds = form["WebIdentityToken"], int(form.get("DurationSeconds", 3600))
        demand(20 <= len(role) <= 2048, "form", "the length of RoleArn")
        legal = re.fullmatch(r"[\w+=,.@-]{2,64}", name, re.ASCII)
        demand(legal, "form", f"RoleSessionName {name}")
        demand(4 <= len(token) <= 20000, "form", "the length of WebIdentityToken")
        demand(900 <= seconds <= 43200, "form", "DurationSeconds")

        # Only one provider of an account can have said it.
        claims = None
        for issuer in self.providers:
            try:
                claims = internet.verify(token, issuer, RSA + EC)
                break
            except Refused as error:
                if error.reason != "issuer":
                    raise
        demand(claims, "issuer", "no such provider in your account")
        # The authorized party counts for the audience where there is one.
        said = {"aud": claims["azp"]} if "azp" in claims else claims
        known = [[client] for client in self.providers[issuer]]
        demand(audiences(said) in known, "audience", said.get("aud"))
        who = subject(claims, 6, 255)
        pattern = self.roles.get(role)
        demand(pattern and fnmatch.fnmatchcase(who, pattern), "role", "not authorized")

        end = datetime.datetime.now(datetime.timezone.utc)
        end += datetime.timedelta(seconds=min(seconds, self.life))
        return self.document(
            "AssumeRoleWithWebIdentityResponse",
            "<AssumeRoleWithWebIdentityResult>"
            f"<SubjectFromWebIdentityToken>{escape(who)}</SubjectFromWebIdentityToken>"
            f"<Provider>{escape(issuer.removeprefix('https://'))}</Provider>"
            "<Credentials><AccessKeyId>ASIAEXAMPLE</AccessKeyId>"
            "<SecretAccessKey>secret</SecretAccessKey>"
            f"<SessionToken>{escape(granted(claims))}</SessionToken>"
            f"<Expiration>{end:%Y-%m-%dT%H:%M:%SZ}</Expiration></Credentials>"
            "</AssumeRoleWithWebIdentityResult>",
        )

    @staticmethod
    def document(name, inner):
        space = "https://sts.amazonaws.com/doc/2011-06-15/"
        request = "<RequestId>00000000-0000-0000-0000-000000000000</RequestId>"
        return f'<{name} xmlns="{space}">{inner}{request}</{name}>'


class Gcp:
    """The token exchange (RFC 8693) of a workload identity pool."""

    TYPE = "urn:ietf:params:oauth:token-type:"

    def __init__(self, issuer, provider, allowed, life):
        assert len(allowed) <= 10 and all(len(name) <= 256 for name in allowed)
        self.issuer, self.provider, self.life = issuer, provider, life
        self.audiences = allowed or [provider, "https:" + provider]

    def answer(self, body):
        try:
            claims = self.exchange(Form(body))
        except Refused as error:
            document = {"error": "invalid_grant", "error_description": str(error)}
            return 400, "application/json", json.dumps(document)
        document = {
            "access_token": granted(claims),
            "issued_token_type": self.TYPE + "access_token",
            "token_type": "Bearer",
            "expires_in": self.life,
        }
        return 200, "application/json", json.dumps(document)

    def exchange(self, form):
        exact(
            form,
            grant_type="urn:ietf:params:oauth:grant-type:token-exchange",
            audience=self.provider,
            requested_token_type=self.TYPE + "access_token",
            subject_token_type=self.TYPE + "jwt",
            scope="https://www.googleapis.com/auth/cloud-platform",
        )
        claims = internet.verify(form["subject_token"], self.issuer, RSA + EC)
        one = any(name in self.audiences for name in audiences(claims))
        demand(one, "audience", claims.get("aud"))
        life = claims["exp"] - claims["iat"]
        demand(life <= 24 * 3600, "life", f"{life} seconds")
        # google.subject, which is assertion.sub.
        subject(claims, 1, 127)
        return claims


class Azure:
    """The federated credential of an application, for which the token is a client assertion."""

    def __init__(self, tenant, client, issuer, subject, audience, life):
        assert all(len(word) <= 600 for word in (issuer, subject, audience))
        self.path = f"/{tenant}/oauth2/v2.0/token"
        self.client, self.issuer, self.subject = client, issuer, subject
        self.audience, self.life = audience, life

    def answer(self, body):
        try:
            claims = self.assert_client(Form(body))
        except Refused as error:
            document = {"error": "invalid_client", "error_description": str(error)}
            return 401, "application/json", json.dumps(document)
        document = {
            "access_token": granted(claims),
            "token_type": "Bearer",
            "expires_in": self.life,
        }
        return 200, "application/json", json.dumps(document)

    def assert_client(self, form):
        kind = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
        exact(
            form,
            grant_type="client_credentials",
            client_assertion_type=kind,
            client_id=self.client,
        )
        demand(form["scope"].endswith("/.default"), "form", "scope")
        claims = internet.verify(form["client_assertion"], self.issuer, ["RS256"])
        demand(audiences(claims) == [self.audience], "audience", claims.get("aud"))
        demand(claims.get("sub") == self.subject, "subject", claims.get("sub"))
        return claims


class Kubernetes:
    """An API server with an AuthenticationConfiguration whose username is `claims.sub`."""

    PATH = "/apis/authentication.k8s.io/v1/selfsubjectreviews"

    def __init__(self, issuer, audience):
        self.issuer, self.audience = issuer, audience

    def answer(self, authorization):
        try:
            kind, _, token = (authorization or "").partition(" ")
            demand(kind == "Bearer", "form", "no bearer token")
            pss = ["PS256", "PS384", "PS512"]
            claims = internet.verify(token, self.issuer, RSA + EC + pss)
            demand(self.audience in audiences(claims), "audience", claims.get("aud"))
            subject(claims, 1, 1 << 16)
        except Refused as error:
            status = {"kind": "Status", "apiVersion": "v1", "code": 401}
            status |= {"reason": "Unauthorized", "message": str(error)}
            return 401, "application/json", json.dumps(status)
        review = {
            "kind": "SelfSubjectReview",
            "apiVersion": "authentication.k8s.io/v1",
            "status": {"userInfo": {"username": granted(claims)}},
        }
        return 201, "application/json", json.dumps(review)


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/":
            reply = aws.answer(body)
        elif self.path == "/v1/token":
            reply = gcp.answer(body)
        elif self.path == azure.path:
            reply = azure.answer(body)
        elif self.path == Kubernetes.PATH:
            reply = kubernetes.answer(self.headers["Authorization"])
        else:
            reply = 404, "text/plain", self.path
        status, kind, document = reply
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.end_headers()
        self.wfile.write(document.encode())

    def log_message(self, *_):
        pass


with open(sys.argv[1]) as file:
    rules = json.load(file)
internet = Internet(rules["hosts"], rules["certificate"])
aws = Aws(**rules["aws"])
gcp = Gcp(**rules["gcp"])
azure = Azure(**rules["azure"])
kubernetes = Kubernetes(**rules["kubernetes"])

server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(rules["certificate"], rules["key"])
server.socket = context.wrap_socket(server.socket, server_side=True)
threading.Thread(target=server.serve_forever, daemon=True).start()
print(server.server_port, flush=True)
sys.stdin.read()

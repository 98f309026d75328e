"""What every relying party does with a token before its own rules: it finds the keys through discovery,
over TLS, and checks the issuer, the signature and the times."""

import http.client
import json
import re
import socket
import ssl
import time
import urllib.parse

import jwt

COMPACT = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")


class Refused(Exception):
    """A token, or a request, that is not taken: a word for why, and what to say of it."""

    def __init__(self, reason, message):
        super().__init__(f"{reason}: {message}")
        self.reason = reason


def demand(fact, reason, message):
    if not fact:
        raise Refused(reason, message)


class Internet:
    """All hosts that there are, each at a port of this machine."""

    def __init__(self, ports, authority):
        self.ports = ports
        self.context = ssl.create_default_context(cafile=authority)

    def read(self, url):
        place = urllib.parse.urlsplit(url)
        plain = place.scheme == "https" and place.netloc == place.hostname
        demand(plain, "unreachable", f"{url} is not https://HOST/PATH")
        connection = http.client.HTTPConnection(place.hostname)
        try:
            address = ("127.0.0.1", self.ports[place.hostname])
            connection.sock = self.context.wrap_socket(
                socket.create_connection(address, timeout=20),
                server_hostname=place.hostname,
            )
            connection.request("GET", place.path)
            reply = connection.getresponse()
            kind = reply.headers["Content-Type"]
            if (reply.status, kind) != (200, "application/json"):
                raise OSError(f"{reply.status} {kind}")
            return json.load(reply)
        except (KeyError, OSError, ValueError, http.client.HTTPException) as error:
            raise Refused("unreachable", f"{url}: {error!r}") from error
        finally:
            connection.close()

    def keys(self, issuer, algorithm):
        """The keys of an issuer for this algorithm, by their names."""
        document = self.read(issuer + "/.well-known/openid-configuration")
        demand(document["issuer"] == issuer, "discovery", "it is of another issuer")
        demand(
            document["response_types_supported"] == ["id_token"]
            and document["subject_types_supported"] == ["public"]
            and algorithm in document["id_token_signing_alg_values_supported"],
            "discovery",
            "it does not say enough",
        )
        keys = jwt.PyJWKSet.from_dict(self.read(document["jwks_uri"])).keys
        fit = lambda key: (key.algorithm_name, key.public_key_use) == (algorithm, "sig")
        return {key.key_id: key for key in keys if fit(key)}

    def verify(self, token, issuer, algorithms):
        """The claims of a token that this issuer has signed and that holds now."""
        demand(COMPACT.fullmatch(token), "malformed", "this is no JWT")
        try:
            header = jwt.get_unverified_header(token)
            said = jwt.decode(token, options={"verify_signature": False})
        except jwt.PyJWTError as error:
            raise Refused("malformed", str(error)) from error
        algorithm = header["alg"]
        demand(said.get("iss") == issuer, "issuer", f"it is {said.get('iss')}")
        demand(algorithm in algorithms, "algorithm", f"it is {algorithm}")
        key = self.keys(issuer, algorithm).get(header.get("kid"))
        demand(key, "key", "the issuer does not publish it")
        only = dict.fromkeys(["exp", "nbf", "iat", "aud", "iss", "sub", "jti"], False)
        only = {f"verify_{name}": value for name, value in only.items()}
        try:
            claims = jwt.decode(token, key, algorithms=[algorithm], options=only)
        except jwt.PyJWTError as error:
            raise Refused("signature", repr(error)) from error
        now = time.time()
        times = [claims.get("iat"), claims.get("exp"), claims.get("nbf", 0)]
        demand(all(type(at) is int for at in times), "times", "they are integers")
        demand(times[0] <= now and times[2] <= now, "early", "it does not hold yet")
        demand(now < times[1], "expired", "it does not hold any more")
        return claims


def audiences(claims):
    """Those of a token, whichever form they have."""
    said = claims.get("aud")
    return said if isinstance(said, list) else [said]


def subject(claims, shortest, longest):
    """That of a token, within these lengths in bytes."""
    said = claims.get("sub")
    demand(isinstance(said, str), "subject", "there is none")
    length = len(said.encode())
    demand(shortest <= length <= longest, "subject", f"it has {length} bytes")
    return said

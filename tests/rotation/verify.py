"""Two relying parties of Python: one lets PyJWKClient look for keys, one only ever looks by the clock.

    verify.py KIND AUTHORITY AUDIENCE PATIENCE

KIND is "client" or "plain", AUTHORITY the certificates to trust, PATIENCE for how many seconds keys
that were read are good enough. Each line of input is an issuer URL and a token that is said to be
of it; each line of output is "ok KID" or "bad REASON KID".
"""

import json
import ssl
import sys
import time
import urllib.request

import jwt


class UnknownKid(Exception):
    """The keys at hand do not hold the one that is named."""


class Plain:
    """Reads the JWKS again when it is old, whatever token comes."""

    def __init__(self, uri):
        self.uri = uri
        self.keys = {}
        self.due = time.monotonic()

    def get_signing_key_from_jwt(self, token):
        now = time.monotonic()
        if now >= self.due:
            keys = jwt.PyJWKSet.from_dict(read(self.uri)).keys
            self.keys = {key.key_id: key for key in keys}
            self.due = now + patience
        kid = kid_of(token)
        if kid not in self.keys:
            raise UnknownKid
        return self.keys[kid]


def client(uri):
    return jwt.PyJWKClient(
        uri, lifespan=patience, cooldown_duration=patience, ssl_context=context
    )


def read(url):
    with urllib.request.urlopen(url, context=context) as reply:
        return json.load(reply)


def kid_of(token):
    return jwt.get_unverified_header(token)["kid"]


class Issuer:
    """What is known of an issuer, from its discovery document."""

    def __init__(self, url):
        document = read(url + "/.well-known/openid-configuration")
        self.url = document["issuer"]
        self.algorithms = document["id_token_signing_alg_values_supported"]
        self.keys = find_keys(document["jwks_uri"])

    def verify(self, token):
        key = self.keys.get_signing_key_from_jwt(token)
        jwt.decode(
            token,
            key,
            algorithms=self.algorithms,
            issuer=self.url,
            audience=audience,
            leeway=1,
            options={"require": ["exp"]},
        )


def verdict(url, token):
    try:
        if url not in issuers:
            issuers[url] = Issuer(url)
        issuers[url].verify(token)
        return "ok"
    except UnknownKid:
        return "bad unknown-kid"
    except jwt.InvalidSignatureError:
        return "bad signature"
    except jwt.ExpiredSignatureError:
        return "bad expired"
    except Exception as error:
        # PyJWKClient has no class of its own for it.
        if "Unable to find a signing key" in str(error):
            return "bad unknown-kid"
        print(f"{kind}: {error!r}", file=sys.stderr)
        return "bad other"


kind, authority, audience, patience = sys.argv[1:]
patience = float(patience)
find_keys = {"client": client, "plain": Plain}[kind]
context = ssl.create_default_context(cafile=authority)
issuers = {}
for line in sys.stdin:
    url, token = line.split()
    print(verdict(url, token), kid_of(token), flush=True)

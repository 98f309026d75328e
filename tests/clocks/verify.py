"""A relying party that reads the documents of an issuer from the disk each time, and lives by a clock.

    verify.py AUDIENCE

Each line of input is the webroot of an issuer and a token that is said to be of it; each line of
output is "ok KID" or "bad REASON KID".
"""

import json
import pathlib
import sys

import jwt


def read(webroot, name):
    return json.loads((pathlib.Path(webroot) / name).read_text())


def verdict(webroot, token, kid):
    document = read(webroot, ".well-known/openid-configuration")
    keys = {key.key_id: key for key in jwt.PyJWKSet.from_dict(read(webroot, "jwks.json")).keys}
    if kid not in keys:
        return "bad unknown-kid"
    try:
        jwt.decode(
            token,
            keys[kid],
            algorithms=document["id_token_signing_alg_values_supported"],
            issuer=document["issuer"],
            audience=audience,
            # The clocks are one, but a token may end while it is looked at.
            leeway=1,
            options={"require": ["exp", "iat"]},
        )
        return "ok"
    except jwt.PyJWTError as error:
        return f"bad {type(error).__name__}"


audience = sys.argv[1]
for line in sys.stdin:
    webroot, token = line.split()
    kid = jwt.get_unverified_header(token)["kid"]
    print(verdict(webroot, token, kid), kid, flush=True)

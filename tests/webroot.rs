//! A foreign verifier, over the web: PyJWT finds the keys through discovery, from the webroot as
//! a real nginx serves it over TLS.

mod common;

use std::fs;
use std::process::{Child, Command, Stdio};

use common::{
    Agent, Need, Sandbox, entry, eventually, feed, free_port, have, issuer, python, text,
};

/// Verifies the token on standard input the way a relying party does.
const VERIFY: &str = r#"
import json, ssl, sys, urllib.request
import jwt

issuer, audience, authority = sys.argv[1:]
context = ssl.create_default_context(cafile=authority)
with urllib.request.urlopen(issuer + "/.well-known/openid-configuration", context=context) as reply:
    assert reply.headers["Content-Type"] == "application/json", reply.headers["Content-Type"]
    discovery = json.load(reply)
assert discovery["issuer"] == issuer, discovery
algorithms = discovery["id_token_signing_alg_values_supported"]
keys = jwt.PyJWKClient(discovery["jwks_uri"], ssl_context=context)
token = sys.stdin.read()
try:
    key = keys.get_signing_key_from_jwt(token)
    claims = jwt.decode(token, key, algorithms=algorithms, audience=audience, issuer=issuer)
    print("valid", claims["sub"])
except jwt.PyJWTError as error:
    print("invalid", type(error).__name__)
"#;

/// An nginx that serves directories over TLS, each on its port.
struct Nginx {
    child: Child,
}

impl Nginx {
    fn serve(sandbox: &Sandbox, roots: &[(u16, &str)]) -> Self {
        let authority = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        fs::write(sandbox.path("ca.pem"), authority.cert.pem()).unwrap();
        fs::write(
            sandbox.path("key.pem"),
            authority.signing_key.serialize_pem(),
        )
        .unwrap();
        let at = |name: &str| sandbox.path(name).display().to_string();
        let servers: String = roots
            .iter()
            .map(|(port, root)| {
                format!(
                    "server {{ listen 127.0.0.1:{port} ssl; ssl_certificate {}; ssl_certificate_key {}; \
                     root {}; types {{}} default_type application/json; }}\n",
                    at("ca.pem"), at("key.pem"), at(root)
                )
            })
            .collect();
        let conf = format!(
            "daemon off; pid {}; error_log stderr;\nevents {{}}\nhttp {{ access_log off;\n\
             client_body_temp_path {t}; proxy_temp_path {t}; fastcgi_temp_path {t}; uwsgi_temp_path {t}; scgi_temp_path {t};\n{servers}}}\n",
            at("nginx.pid"),
            t = at("nginx-temp"),
        );
        fs::write(sandbox.path("nginx.conf"), conf).unwrap();
        let child = Command::new("nginx")
            .args(["-e", "stderr", "-c", &at("nginx.conf")])
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut nginx = Self { child };
        for (port, _) in roots {
            eventually("nginx listens", || {
                assert!(nginx.child.try_wait().unwrap().is_none(), "nginx has ended");
                std::net::TcpStream::connect(("127.0.0.1", *port)).ok()
            });
        }
        nginx
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let pid = nix::unistd::Pid::from_raw(self.child.id().cast_signed());
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        let _ = self.child.wait();
    }
}

/// What the relying party says.
fn verify(sandbox: &Sandbox, issuer: &str, audience: &str, token: &str) -> String {
    let mut command = Command::new(python().unwrap());
    command
        .args(["-c", VERIFY, issuer, audience])
        .arg(sandbox.path("ca.pem"));
    let output = feed(&mut command, token);
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout).trim().to_owned()
}

/// The token with one bit of its signature turned over.
fn tampered(token: &str) -> String {
    let at = token.rfind('.').unwrap() + 10;
    let mut bytes = token.as_bytes().to_vec();
    bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
    text(&bytes)
}

#[test]
fn tokens_of_socket_and_file_verify_through_discovery_and_forged_ones_do_not() {
    if !have(&[Need::Root, Need::Python, Need::Nginx]) {
        return;
    }
    let sandbox = Sandbox::new("");
    let (rsa, ec) = (free_port(), free_port());
    let url = |port: u16| format!("https://localhost:{port}");
    let file = |name: &str, entry: &str| {
        let path = sandbox.path(&format!("run/tokens/{name}/token"));
        format!(
            "token_file \"{}\" {{\n  entry = \"{entry}\"\n  audience = \"vault\"\n}}\n",
            path.display()
        )
    };
    let with_issuer = |name: &str, issuer: &str| {
        entry(name, 1001).replace(
            "  selectors",
            &format!("  issuer = \"{issuer}\"\n  selectors"),
        )
    };
    sandbox.configure(
        &[
            issuer("rsa", &url(rsa), "RS256"),
            issuer("ec", &url(ec), "ES256"),
            with_issuer("billing-rsa", "rsa"),
            with_issuer("billing-ec", "ec"),
            file("rsa", "billing-rsa"),
            file("ec", "billing-ec"),
        ]
        .concat(),
    );
    let _agent: Agent = sandbox.start();
    let _nginx = Nginx::serve(
        &sandbox,
        &[(rsa, "data/webroot/rsa"), (ec, "data/webroot/ec")],
    );

    for (name, issuer) in [("rsa", url(rsa)), ("ec", url(ec))] {
        let id = format!("spiffe://example.org/billing-{name}");
        let fetch = [
            "fetch-jwt",
            "--audience",
            "vault",
            "--output",
            "token",
            "--spiffe-id",
            &id,
        ];
        let fetched = sandbox.run_as(1001, &fetch);
        assert!(fetched.status.success(), "{}", text(&fetched.stderr));
        let fetched = text(&fetched.stdout).trim_end().to_owned();
        let path = sandbox.path(&format!("run/tokens/{name}/token"));
        let mirrored = eventually("the token file is there", || fs::read_to_string(&path).ok());

        for token in [&fetched, &mirrored] {
            let verdict = |audience: &str, token: &str| verify(&sandbox, &issuer, audience, token);
            assert_eq!(verdict("vault", token), format!("valid {id}"));
            assert_eq!(verdict("other", token), "invalid InvalidAudienceError");
            assert_eq!(
                verdict("vault", &tampered(token)),
                "invalid InvalidSignatureError"
            );
        }
    }
}

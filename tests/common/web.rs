//! What the tests need that look at the agent from the web: a server for its documents, and tokens
//! that no verifier may take.

use std::fs;
use std::process::{Child, Command, Stdio};

use crate::common::{Sandbox, eventually, text};

/// The hosts that the certificate is for: where nginx is reached as itself, and those of issuers
/// for clients that find them in a way of their own.
const HOSTS: [&str; 3] = ["localhost", "id.example.org", "example.com"];

/// An nginx that serves directories over TLS, each on its port.
pub struct Nginx {
    child: Child,
}

impl Nginx {
    /// Serves until it is dropped; `ca.pem` in the sandbox is what its clients are to trust,
    /// and `key.pem` the key of it.
    pub fn serve(sandbox: &Sandbox, roots: &[(u16, &str)]) -> Self {
        let authority = rcgen::generate_simple_self_signed(HOSTS.map(str::to_owned)).unwrap();
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

/// The token with one bit of its signature turned over.
pub fn tampered(token: &str) -> String {
    let at = token.rfind('.').unwrap() + 10;
    let mut bytes = token.as_bytes().to_vec();
    bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
    text(&bytes)
}

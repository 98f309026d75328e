//! An agent with its webroot, the services that trust it, and programs with an SDK.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

use serde_json::{Value, json};

use crate::common::{
    Agent, Need, Sandbox, claims, entry, eventually, free_port, have, issuer, lines, python,
};
use crate::web::Nginx;

/// Of the agent, unless a test brings its own configuration.
pub const ISSUER: &str = "https://id.example.org";
pub const BILLING: &str = "spiffe://example.org/billing";

pub const ROLE: &str = "arn:aws:iam::123456789012:role/billing";
pub const PROVIDER: &str =
    "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/pool/providers/agent";
pub const AZURE_AUDIENCE: &str = "api://AzureADTokenExchange";
pub const TENANT: &str = "00000000-0000-0000-0000-00000000000a";
pub const CLIENT: &str = "00000000-0000-0000-0000-00000000000b";

/// A file that is replaced after two seconds, with a token that holds for eighteen more, and each
/// token told from the next.
pub const RENEWED: &str = "ttl = \"20s\"\n  refresh_at = 0.1\n  jti = true";

/// Options of a token file: whose it is, and the key that signs it.
pub const OWN: &str = "spiffe_id = \"spiffe://example.org/billing\"\n  shared = true";
pub const RSA: &str = "issuer = \"main\"\n  key = \"rsa\"";
pub const EC: &str = "issuer = \"main\"\n  key = \"ec\"";

/// A `token_file` block, whose tokens hold one audience as a string and several as a list.
pub fn file(name: &str, audiences: &[&str], options: &[&str]) -> String {
    let audience = match audiences {
        [one] => json!(one),
        several => json!(several),
    };
    let options = options.join("\n  ");
    format!("token_file \"TOKENS/{name}\" {{\n  audience = {audience}\n  {options}\n}}\n")
}

/// An `entry` block `billing` for this user, with these options.
pub fn own_entry(options: &[&str]) -> String {
    let block = entry("billing", nix::unistd::geteuid().as_raw());
    block.replace("\n}\n", &format!("\n  {}\n}}\n", options.join("\n  ")))
}

/// Whom the services trust, and with what.
pub struct Rules {
    pub issuer: &'static str,
    pub subject: &'static str,
    pub gcp_audiences: &'static [&'static str],
}

/// An agent, its webroot as a web server serves it, and the services that trust it.
pub struct Bench {
    pub sandbox: Sandbox,
    _agent: Agent,
    _nginx: Nginx,
    _sts: Program,
    pub address: String,
}

impl Bench {
    /// With the issuer `main`, which has the keys `rsa` and `ec`, and these blocks, in which TOKENS
    /// is the directory for token files. Nothing if this machine lacks something.
    pub fn start(blocks: &str) -> Option<Self> {
        let rules = Rules {
            issuer: ISSUER,
            subject: BILLING,
            gcp_audiences: &[],
        };
        let issuer = issuer("main", ISSUER, "RS256").replace("key \"main\"", "key \"rsa\"");
        let ec = "  key \"ec\" {\n    algorithm = \"ES256\"\n  }\n}\n";
        let issuer = issuer.strip_suffix("}\n").unwrap().to_owned() + ec;
        Self::with(&rules, |sandbox| {
            let tokens = sandbox.path("run/tokens").display().to_string();
            let text = sandbox.config_text(&(issuer + &blocks.replace("TOKENS", &tokens)));
            text.replacen("agent {\n", "agent {\n  max_ttl = \"26h\"\n", 1)
        })
    }

    /// With a configuration, whose issuer is `main`.
    pub fn with(rules: &Rules, config: impl FnOnce(&Sandbox) -> String) -> Option<Self> {
        if !have(&[Need::Python, Need::Sdks, Need::Nginx]) {
            return None;
        }
        let sandbox = Sandbox::new("");
        fs::write(sandbox.config(), config(&sandbox)).unwrap();
        let agent = sandbox.start();
        let port = free_port();
        let nginx = Nginx::serve(&sandbox, &[(port, "data/webroot/main")]);
        let (sts, address) = serve(&sandbox, rules, port);
        Some(Self {
            sandbox,
            _agent: agent,
            _nginx: nginx,
            _sts: sts,
            address,
        })
    }

    /// The path of a token file, once it is there.
    pub fn file(&self, name: &str) -> PathBuf {
        let path = self.sandbox.path("run/tokens").join(name);
        appeared(&path);
        path
    }

    /// A further file beside the agent's.
    pub fn made(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.sandbox.path(name);
        fs::write(&path, content).unwrap();
        path
    }

    /// The token of a file of two seconds, when it has ended.
    pub fn expired(&self, name: &str) -> PathBuf {
        let token = fs::read_to_string(self.file(name)).unwrap();
        let end = claims(&token)["exp"].as_u64().unwrap();
        eventually("the token has ended", || {
            let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
            (now > end).then_some(())
        });
        self.made("expired", token)
    }

    /// A program with the SDK of this cloud, and the variables that its user would set.
    pub fn program(&self, cloud: &str) -> Program {
        self.program_by(Command::new(python().unwrap()), cloud)
    }

    /// As [`Bench::program`], below `agent exec`.
    pub fn program_below_exec(&self, audience: &str, cloud: &str) -> Program {
        let mut command = self.sandbox.command(&["exec", "--audience", audience]);
        command.arg("--").arg(python().unwrap());
        self.program_by(command, cloud)
    }

    /// As [`Bench::program`], by a command that in the end becomes Python.
    pub fn program_by(&self, command: Command, cloud: &str) -> Program {
        let variables: &[(&str, &str)] = match cloud {
            "aws" => &[
                ("AWS_DEFAULT_REGION", "eu-central-1"),
                ("AWS_ROLE_ARN", ROLE),
            ],
            "gcp" => &[("GOOGLE_EXTERNAL_ACCOUNT_ALLOW_EXECUTABLES", "1")],
            "azure" => &[("AZURE_CLIENT_ID", CLIENT), ("AZURE_TENANT_ID", TENANT)],
            _ => &[],
        };
        self.program_in(command, cloud, variables)
    }

    /// As [`Bench::program_by`], with these variables instead of those of its user.
    pub fn program_in(
        &self,
        mut command: Command,
        cloud: &str,
        variables: &[(&str, &str)],
    ) -> Program {
        let authority = self.sandbox.path("ca.pem");
        command
            .arg("-B")
            .arg(script("client.py"))
            .arg(cloud)
            // Nothing of whoever runs the tests.
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .env("HOME", self.sandbox.path("home"))
            .env("TMPDIR", self.sandbox.path(""))
            .env("SPIFFE_ENDPOINT_SOCKET", self.sandbox.socket())
            .envs(variables.iter().copied());
        match cloud {
            "aws" => command
                .env("AWS_CA_BUNDLE", authority)
                .env("AWS_ENDPOINT_URL_STS", &self.address)
                .env("AWS_MAX_ATTEMPTS", "1"),
            "gcp" => command.env("REQUESTS_CA_BUNDLE", authority),
            "azure" => command
                .env("REQUESTS_CA_BUNDLE", authority)
                .env("AZURE_AUTHORITY_HOST", &self.address),
            _ => &mut command,
        };
        Program::start(&mut command)
    }

    /// The file that GOOGLE_APPLICATION_CREDENTIALS names, with this source.
    pub fn google(&self, name: &str, source: &Value) -> PathBuf {
        let document = json!({
            "type": "external_account",
            "audience": PROVIDER,
            "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
            "token_url": format!("{}/v1/token", self.address),
            "credential_source": source,
        });
        self.made(&format!("{name}.google.json"), document.to_string())
    }

    /// The file that KUBECONFIG names, with this user.
    pub fn kubeconfig(&self, name: &str, user: &Value) -> PathBuf {
        let document = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "main",
            "contexts": [{"name": "main", "context": {"cluster": "main", "user": "me"}}],
            "clusters": [{"name": "main", "cluster": {
                "server": self.address,
                "certificate-authority": self.sandbox.path("ca.pem"),
            }}],
            "users": [{"name": "me", "user": user}],
        });
        self.made(&format!("{name}.kubeconfig"), document.to_string())
    }
}

/// Starts the services, and gives the address of all of them.
fn serve(sandbox: &Sandbox, rules: &Rules, webroot: u16) -> (Program, String) {
    let (issuer, subject) = (rules.issuer, rules.subject);
    let host = issuer.strip_prefix("https://").unwrap();
    let rules = json!({
        "certificate": sandbox.path("ca.pem"),
        "key": sandbox.path("key.pem"),
        "hosts": {host: webroot},
        // So little is left of a minute that boto3 and google-auth ask anew each time.
        "aws": {"providers": {issuer: ["sts.amazonaws.com"]}, "roles": {ROLE: subject}, "life": 60},
        "gcp": {
            "issuer": issuer,
            "provider": PROVIDER,
            "allowed": rules.gcp_audiences,
            "life": 60,
        },
        "azure": {
            "tenant": TENANT,
            "client": CLIENT,
            "issuer": issuer,
            "subject": subject,
            "audience": AZURE_AUDIENCE,
            "life": 3600,
        },
        "kubernetes": {"issuer": issuer, "audience": "kubernetes"},
    });
    let path = sandbox.path("sts.json");
    fs::write(&path, rules.to_string()).unwrap();
    let mut command = Command::new(python().unwrap());
    let mut sts = Program::start(command.arg("-B").arg(script("sts.py")).arg(path));
    let address = format!("https://localhost:{}", sts.line());
    (sts, address)
}

fn script(name: &str) -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    tests.join("sdk").join(name)
}

/// Waits for a file.
pub fn appeared(path: &Path) {
    eventually("the token file is there", || path.exists().then_some(()));
}

/// Waits until a file has another token than the one for which this was granted.
pub fn replaced(path: &Path, granted: &str) {
    eventually("the file is replaced", || {
        (grant_of(path) != granted).then_some(())
    });
}

/// What the services grant for the token in a file.
pub fn grant_of(file: &Path) -> String {
    grant(&claims(&fs::read_to_string(file).unwrap()))
}

/// What the services say that they have granted for a token with these claims.
pub fn grant(claims: &Value) -> String {
    let word = |name: &str| claims[name].as_str().unwrap_or("-").to_owned();
    format!("granted {} {}", word("sub"), word("jti"))
}

/// A process that answers lines, killed when dropped.
pub struct Program {
    child: Child,
    input: Option<ChildStdin>,
    lines: Box<dyn Iterator<Item = String>>,
}

impl Program {
    fn start(command: &mut Command) -> Self {
        let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = piped.spawn().unwrap();
        Self {
            input: child.stdin.take(),
            lines: Box::new(lines(child.stdout.take().unwrap())),
            child,
        }
    }

    fn line(&mut self) -> String {
        self.lines.next().expect("it still runs")
    }

    fn tell(&mut self, line: &str) {
        let line = format!("{line}\n");
        let input = self.input.as_mut().unwrap();
        input.write_all(line.as_bytes()).unwrap();
    }

    /// What it is granted with this file, as a program that has just been started.
    pub fn begin(&mut self, file: &Path) -> String {
        self.tell(file.to_str().unwrap());
        self.line()
    }

    /// What it is granted now.
    pub fn again(&mut self) -> String {
        self.tell("");
        self.line()
    }

    /// Lets so many seconds pass on its clock.
    pub fn pass(&mut self, seconds: u32) {
        self.tell(&format!("+{seconds}"));
    }

    /// Wants that what is granted with this file is what its token says.
    pub fn granted(&mut self, file: &Path) {
        assert_eq!(self.begin(file), grant_of(file), "{file:?}");
    }

    /// Wants that nothing is granted with this file, and these words for why.
    pub fn refused(&mut self, file: &Path, why: &[&str]) {
        let said = self.begin(file);
        let told = why.iter().all(|word| said.contains(word));
        assert!(said.starts_with("refused ") && told, "{file:?}: {said}");
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // What runs below `agent exec` ends with its input.
        drop(self.input.take());
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

//! HashiCorp Vault and OpenBao: the auth method `jwt` with a role.

use clap::Args;
use serde_json::{Value, json};

use super::super::quote::{hcl, shell};
use super::facts::Facts;
use super::limits::{Concern, Limits, wide};
use super::text::{Blanks, fill};
use super::workload::{command, parameter};
use super::{HolderArgs, Part, RelyingParty};
use crate::jose::Algorithm;

/// Print the commands for a role of Vault or OpenBao, and how the workload logs in.
///
/// Parts: commands, login, agent (for Vault Agent, which reads token files).
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  agent integrate vault --entry billing --policy billing-secrets
  agent integrate vault --token-file /run/agent/tokens/billing/vault --part agent")]
pub struct VaultArgs {
    #[command(flatten)]
    holder: HolderArgs,

    /// Where the auth method is mounted.
    #[arg(long, value_name = "PATH", default_value = "jwt")]
    mount: String,

    /// A policy of the tokens that Vault gives; may be given several times.
    #[arg(long, value_name = "NAME")]
    policy: Vec<String>,
}

const AUDIENCE: &str = "vault";

const LIMITS: Limits = Limits {
    algorithms: &Algorithm::ALL,
    ..Limits::of("Vault")
};

impl RelyingParty for VaultArgs {
    fn holder(&self) -> &HolderArgs {
        &self.holder
    }

    fn usual_audience(&self) -> String {
        AUDIENCE.to_owned()
    }

    fn limits(&self, _: &Facts) -> Limits {
        LIMITS
    }

    fn pattern(&self, facts: &Facts) -> Option<Concern> {
        Some(wide(&glob(facts)))
    }

    fn parts(&self, facts: &Facts, blanks: &mut Blanks) -> Vec<Part> {
        let mut policies = self.policy.clone();
        if policies.is_empty() {
            policies.push(blanks.take(None, "--policy", "POLICY"));
        }
        let mut parts = vec![
            Part {
                name: "commands",
                title: "Commands",
                text: self.commands(facts, &policies),
            },
            Part {
                name: "login",
                title: "How the workload logs in",
                text: self.login(facts),
            },
        ];
        parts.extend(facts.file().map(|file| Part {
            name: "agent",
            title: "The same for Vault Agent",
            text: fill(
                include_str!("vault.hcl"),
                &[
                    ("path", &hcl(&format!("auth/{}", self.mount))),
                    ("file", &hcl(&file.to_string_lossy())),
                    ("name", &facts.name),
                ],
            ) + &parameter(facts),
        }));
        parts
    }
}

impl VaultArgs {
    fn commands(&self, facts: &Facts, policies: &[String]) -> String {
        fill(
            include_str!("vault.sh"),
            &[
                ("holder", &facts.subject.written),
                ("issuer", facts.issuer.url.as_str()),
                ("audience", facts.audience(AUDIENCE)),
                ("mount", &shell(&self.mount)),
                ("url", &shell(facts.issuer.url.as_str())),
                ("name", &facts.name),
                ("role", &format!("{:#}", role(facts, policies))),
            ],
        )
    }

    /// The token stays out of the arguments, which other users can see.
    fn login(&self, facts: &Facts) -> String {
        let login = format!(
            "vault write auth/{}/login role={}",
            shell(&self.mount),
            facts.name
        );
        match facts.file() {
            Some(file) => {
                let jwt = shell(&format!("jwt=@{}", file.display()));
                parameter(facts) + &format!("{login} {jwt}\n")
            }
            None => {
                let exec = command(facts, "exec", facts.audience(AUDIENCE));
                let login = shell(&format!("{login} jwt=@\"$SVID_TOKEN_FILE\""));
                format!("{exec} -- sh -c {login}\n")
            }
        }
    }
}

fn glob(facts: &Facts) -> String {
    facts.subject.with("*", str::to_owned)
}

fn role(facts: &Facts, policies: &[String]) -> Value {
    let mut role = json!({
        "role_type": "jwt",
        "user_claim": "sub",
        "bound_audiences": [facts.audience(AUDIENCE)],
        "token_policies": policies,
    });
    let bound = match facts.subject.only() {
        Some(sub) => json!({ "bound_subject": sub }),
        None => json!({ "bound_claims_type": "glob", "bound_claims": { "sub": glob(facts) } }),
    };
    if let (Value::Object(role), Value::Object(bound)) = (&mut role, bound) {
        role.extend(bound);
    }
    role
}

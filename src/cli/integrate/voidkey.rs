//! Voidkey: a provider of identities for its broker.

use clap::Args;

use super::super::quote::{json, shell};
use super::facts::Facts;
use super::limits::{Concern, Limits, error};
use super::text::{Blanks, fill};
use super::workload::{command, parameter};
use super::{HolderArgs, Part, RelyingParty};
use crate::jose::Algorithm;

/// Print a client identity provider for the broker of Voidkey, and how the workload asks for keys.
///
/// Parts: broker, mint.
#[derive(Debug, Args)]
#[command(after_help = "Example:
  agent integrate voidkey --entry billing --broker https://voidkey.example.org")]
pub struct VoidkeyArgs {
    #[command(flatten)]
    holder: HolderArgs,

    /// The address of the broker.
    #[arg(long, value_name = "URL")]
    broker: Option<String>,
}

const AUDIENCE: &str = "voidkey";

const LIMITS: Limits = Limits {
    algorithms: &Algorithm::ALL,
    ..Limits::of("Voidkey")
};

impl RelyingParty for VoidkeyArgs {
    fn holder(&self) -> &HolderArgs {
        &self.holder
    }

    fn usual_audience(&self) -> String {
        AUDIENCE.to_owned()
    }

    fn limits(&self, _: &Facts) -> Limits {
        LIMITS
    }

    fn pattern(&self, _: &Facts) -> Option<Concern> {
        let message = "Voidkey compares whole subjects, and knows no patterns".to_owned();
        let help = "name the file of one directory, or use a token file with one identity";
        Some(error("pattern", message, help))
    }

    fn parts(&self, facts: &Facts, blanks: &mut Blanks) -> Vec<Part> {
        let broker = blanks.take(self.broker.as_ref(), "--broker", "BROKER");
        let audience = facts.audience(AUDIENCE);
        let values = [
            ("holder", facts.subject.written.as_str()),
            ("issuer", facts.issuer.url.as_str()),
            ("audience", audience),
            ("url", &json(facts.issuer.url.as_str())),
            ("jwks", &json(&facts.issuer.jwks_uri)),
            ("audience_quoted", &json(audience)),
            ("algorithm", facts.algorithm.name()),
            ("subject", &json(&facts.subject.written)),
        ];
        vec![
            Part {
                name: "broker",
                title: "Configuration of the broker",
                text: fill(include_str!("voidkey.yaml"), &values),
            },
            Part {
                name: "mint",
                title: "How the workload asks for keys",
                text: mint(facts, &broker),
            },
        ]
    }
}

/// The command line takes the token from a variable too, which other users cannot see.
fn mint(facts: &Facts, broker: &str) -> String {
    let token = match facts.file() {
        Some(file) => format!("cat {}", shell(&file.to_string_lossy())),
        None => command(facts, "fetch-jwt", facts.audience(AUDIENCE)) + " --output token",
    };
    let broker = shell(broker);
    parameter(facts)
        + &format!(
            "eval \"$(OIDC_TOKEN=\"$({token})\" voidkey mint --idp agent --all --server {broker})\"\n"
        )
}

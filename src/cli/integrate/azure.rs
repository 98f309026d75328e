//! Azure: an application of Entra ID with a federated identity credential.

use std::time::Duration;

use clap::Args;
use serde_json::json;

use super::super::quote::{hcl, hcl_part};
use super::facts::Facts;
use super::limits::{Concern, Limits, warning};
use super::text::{Blanks, fill};
use super::workload::environment;
use super::{HolderArgs, Part, RelyingParty};
use crate::jose::Algorithm;

/// Print Terraform for an application of Entra ID, and the environment of the workload.
///
/// Parts: terraform, credential (JSON for az ad app federated-credential create), env.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  agent integrate azure --entry billing
  agent integrate azure --token-file /run/agent/tokens/billing/azure --part credential")]
pub struct AzureArgs {
    #[command(flatten)]
    holder: HolderArgs,

    /// The id of the directory.
    #[arg(long, value_name = "ID")]
    tenant_id: Option<String>,

    /// The id of the application.
    #[arg(long, value_name = "ID")]
    client_id: Option<String>,
}

const AUDIENCE: &str = "api://AzureADTokenExchange";

const LIMITS: Limits = Limits {
    is_public: true,
    issuer: 600,
    algorithms: &[Algorithm::Rs256],
    sub: 1..=600,
    takes_audiences: false,
    audience: 600,
    kept: Duration::from_secs(600),
    ..Limits::of("Azure")
};

impl RelyingParty for AzureArgs {
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
        let message = "Azure compares whole subjects: each directory needs a credential".to_owned();
        let help = "an application has 20 at most; use a token file with one identity for all";
        Some(warning("pattern", message, help))
    }

    fn further(&self, facts: &Facts) -> Option<Concern> {
        let audience = facts.audience(AUDIENCE);
        (audience != AUDIENCE).then(|| {
            let message = format!("the token is for {audience}, not for {AUDIENCE}");
            let help = "Azure recommends its own; the credential below names yours";
            warning("audience", message, help)
        })
    }

    fn parts(&self, facts: &Facts, blanks: &mut Blanks) -> Vec<Part> {
        let client = blanks.take(self.client_id.as_ref(), "--client-id", "CLIENT_ID");
        let tenant = blanks.take(self.tenant_id.as_ref(), "--tenant-id", "TENANT_ID");
        let variables = [("AZURE_CLIENT_ID", client), ("AZURE_TENANT_ID", tenant)];
        let path = "AZURE_FEDERATED_TOKEN_FILE";
        let mut parts = vec![Part {
            name: "terraform",
            title: "Terraform",
            text: terraform(facts),
        }];
        // Without a variable to fill in, a credential is for one subject.
        parts.extend(facts.subject.only().map(|sub| Part {
            name: "credential",
            title: "The same credential, for az ad app federated-credential create --parameters",
            text: credential(facts, sub),
        }));
        parts.push(Part {
            name: "env",
            title: "The environment of the workload",
            text: environment(facts, facts.audience(AUDIENCE), path, &variables),
        });
        parts
    }
}

fn terraform(facts: &Facts) -> String {
    let audience = facts.audience(AUDIENCE);
    let (variable, each, name) = match facts.subject.only() {
        Some(_) => (String::new(), "", ""),
        None => {
            let variable = include_str!("azure.variable.tf");
            let variable = fill(variable, &[("label", &facts.label())]);
            (
                variable,
                "  for_each = var.@label@_names\n\n",
                "-${each.key}",
            )
        }
    };
    fill(
        include_str!("azure.tf"),
        &[
            ("holder", &facts.subject.written),
            ("issuer", facts.issuer.url.as_str()),
            ("audience", audience),
            ("name", &facts.name),
            ("label", &facts.label()),
            ("variable", &variable),
            ("each", &fill(each, &[("label", &facts.label())])),
            ("credential", &format!("{}{name}", credential_name(facts))),
            ("url", &hcl(facts.issuer.url.as_str())),
            ("subject", &facts.subject.with("${each.key}", hcl_part)),
            ("audience_quoted", &hcl(audience)),
        ],
    )
}

/// A name of three characters at least.
fn credential_name(facts: &Facts) -> String {
    format!("agent-{}", facts.name)
}

fn credential(facts: &Facts, sub: &str) -> String {
    let document = json!({
        "name": credential_name(facts),
        "issuer": facts.issuer.url.as_str(),
        "subject": sub,
        "audiences": [facts.audience(AUDIENCE)],
    });
    format!("{document:#}\n")
}

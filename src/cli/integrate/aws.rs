//! AWS: an identity provider of IAM and a role, taken on with `AssumeRoleWithWebIdentity`.

use clap::Args;
use serde_json::{Value, json};

use super::super::quote::hcl;
use super::facts::{Facts, Subject};
use super::limits::{Concern, Limits, RSA_AND_EC, wide};
use super::text::{Blanks, fill};
use super::workload::environment;
use super::{HolderArgs, Part, RelyingParty};
use crate::issuer::{AWS_AUDIENCE, MAX_AWS_ISSUER};

/// Print Terraform for a provider and a role, and the environment of the workload.
///
/// Parts: terraform, policy (the trust policy of the role as JSON), env.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  agent integrate aws --entry billing --account-id 123456789012 --region eu-central-1
  agent integrate aws --token-file /run/agent/tokens/billing/aws --part env")]
pub struct AwsArgs {
    #[command(flatten)]
    holder: HolderArgs,

    /// The number of the account.
    #[arg(long, value_name = "NUMBER", value_parser = parse_account)]
    account_id: Option<String>,

    /// The region that the workload uses.
    #[arg(long, value_name = "REGION")]
    region: Option<String>,
}

const LIMITS: Limits = Limits {
    is_public: true,
    takes_port: false,
    issuer: MAX_AWS_ISSUER,
    algorithms: RSA_AND_EC,
    sub: 6..=255,
    takes_audiences: false,
    audience: 255,
    minds_azp: true,
    ..Limits::of("AWS")
};

fn parse_account(text: &str) -> Result<String, String> {
    let digits = text.len() == 12 && text.bytes().all(|byte| byte.is_ascii_digit());
    digits
        .then(|| text.to_owned())
        .ok_or_else(|| "an account has a number of twelve digits".to_owned())
}

impl RelyingParty for AwsArgs {
    fn holder(&self) -> &HolderArgs {
        &self.holder
    }

    fn usual_audience(&self) -> String {
        AWS_AUDIENCE.to_owned()
    }

    fn limits(&self, _: &Facts) -> Limits {
        LIMITS
    }

    fn pattern(&self, facts: &Facts) -> Option<Concern> {
        Some(wide(&like(&facts.subject)))
    }

    fn parts(&self, facts: &Facts, blanks: &mut Blanks) -> Vec<Part> {
        let account = blanks.take(self.account_id.as_ref(), "--account-id", "ACCOUNT_ID");
        let region = blanks.take(self.region.as_ref(), "--region", "REGION");
        let variables = [
            (
                "AWS_ROLE_ARN",
                format!("arn:aws:iam::{account}:role/{}", facts.name),
            ),
            ("AWS_ROLE_SESSION_NAME", facts.name.clone()),
            // Most SDKs read the one, boto3 reads the other.
            ("AWS_REGION", region.clone()),
            ("AWS_DEFAULT_REGION", region),
        ];
        let audience = facts.audience(AWS_AUDIENCE);
        let path = "AWS_WEB_IDENTITY_TOKEN_FILE";
        vec![
            Part {
                name: "terraform",
                title: "Terraform",
                text: terraform(facts),
            },
            Part {
                name: "policy",
                title: "The same trust policy, for tools other than Terraform",
                text: format!("{:#}\n", policy(facts, &account)),
            },
            Part {
                name: "env",
                title: "The environment of the workload",
                text: environment(facts, audience, path, &variables),
            },
        ]
    }
}

fn terraform(facts: &Facts) -> String {
    let audience = facts.audience(AWS_AUDIENCE);
    let conditions = conditions(facts).into_iter().map(|(test, keys)| {
        let keys = keys.into_iter();
        let keys = keys.map(|(key, value)| format!("          {} = {}\n", hcl(&key), hcl(&value)));
        format!(
            "        {test} = {{\n{}        }}\n",
            keys.collect::<String>()
        )
    });
    fill(
        include_str!("aws.tf"),
        &[
            ("holder", &facts.subject.written),
            ("issuer", facts.issuer.url.as_str()),
            ("audience", audience),
            ("url", &hcl(facts.issuer.url.as_str())),
            ("client", &hcl(audience)),
            ("label", &facts.label()),
            ("name", &facts.name),
            ("conditions", conditions.collect::<String>().trim_end()),
        ],
    )
}

/// Who may take on the role.
fn policy(facts: &Facts, account: &str) -> Value {
    let provider = format!(
        "arn:aws:iam::{account}:oidc-provider/{}",
        facts.issuer.bare()
    );
    let conditions = conditions(facts).into_iter().map(|(test, keys)| {
        let keys = keys
            .into_iter()
            .map(|(key, value)| (key, Value::from(value)));
        (test.to_owned(), keys.collect())
    });
    json!({
        "Version": "2012-10-17",
        "Statement": [{
            "Effect": "Allow",
            "Action": "sts:AssumeRoleWithWebIdentity",
            "Principal": { "Federated": provider },
            "Condition": conditions.collect::<serde_json::Map<_, _>>(),
        }],
    })
}

/// What a token must say, by the operator that compares it.
fn conditions(facts: &Facts) -> Vec<(&'static str, Vec<(String, String)>)> {
    let key = |claim: &str| format!("{}:{claim}", facts.issuer.bare());
    let aud = (key("aud"), literal(facts.audience(AWS_AUDIENCE)));
    match facts.subject.only() {
        Some(sub) => vec![("StringEquals", vec![aud, (key("sub"), literal(sub))])],
        None => vec![
            ("StringEquals", vec![aud]),
            ("StringLike", vec![(key("sub"), like(&facts.subject))]),
        ],
    }
}

/// A text in which policies would see variables, without.
fn literal(text: &str) -> String {
    text.replace('$', "${$}")
}

fn like(subject: &Subject) -> String {
    let plain = |text: &str| literal(text).replace('*', "${*}").replace('?', "${?}");
    subject.with("*", plain)
}

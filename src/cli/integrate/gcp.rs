//! Google Cloud: a workload identity pool with a provider, and a file of credentials.

use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};

use super::super::quote::{hcl, hcl_part, shell};
use super::facts::{Facts, Source};
use super::limits::{Concern, Limits, warning};
use super::text::{Blanks, fill};
use super::workload::{options, parameter};
use super::{HolderArgs, Part, RelyingParty};
use crate::jose::Algorithm;
use crate::mirror::Format;

/// Print Terraform for a workload identity pool, and the credentials file of the workload.
///
/// Parts: terraform, credentials (JSON), env.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  agent integrate gcp --entry billing --project-number 123456789012
  agent integrate gcp --token-file /run/agent/tokens/billing/gcp --part credentials")]
pub struct GcpArgs {
    #[command(flatten)]
    holder: HolderArgs,

    /// The number of the project; where a token file is for a provider, its audience says it.
    #[arg(long, value_name = "NUMBER")]
    project_number: Option<String>,

    /// The pool; "agent", or that of the audience.
    #[arg(long, value_name = "ID")]
    pool: Option<String>,

    /// The provider in the pool; "agent", or that of the audience.
    #[arg(long, value_name = "ID")]
    provider: Option<String>,

    /// Where the workload has its credentials file.
    #[arg(long, value_name = "FILE")]
    credentials_file: Option<String>,

    /// Act as this service account instead of giving roles to the identity itself.
    #[arg(long, value_name = "EMAIL")]
    service_account: Option<String>,
}

/// Stands for the number of a project that is not known.
const NO_NUMBER: &str = "PROJECT_NUMBER";

/// The longest `google.subject`, in bytes.
const MAX_SUBJECT: usize = 127;

const LIMITS: Limits = Limits {
    is_public: true,
    algorithms: &[Algorithm::Rs256, Algorithm::Es256],
    sub: 1..=MAX_SUBJECT,
    audience: 256,
    longest_life: Some(Duration::from_secs(24 * 3600)),
    formats: &[Format::Jwt, Format::Json],
    ..Limits::of("Google Cloud")
};

/// A provider in a pool.
struct Provider {
    project: String,
    pool: String,
    id: String,
}

impl Provider {
    /// What an audience names.
    fn parse(audience: &str) -> Option<Self> {
        let name = audience.strip_prefix("https:").unwrap_or(audience);
        let rest = name.strip_prefix("//iam.googleapis.com/projects/")?;
        let (project, rest) = rest.split_once("/locations/global/workloadIdentityPools/")?;
        let (pool, id) = rest.split_once("/providers/")?;
        Some(Self {
            project: project.to_owned(),
            pool: pool.to_owned(),
            id: id.to_owned(),
        })
    }

    /// Its name as a resource, which is the usual audience.
    fn name(&self) -> String {
        let Self { project, pool, id } = self;
        format!(
            "//iam.googleapis.com/projects/{project}/locations/global/workloadIdentityPools/{pool}/providers/{id}"
        )
    }
}

impl GcpArgs {
    /// The provider of the options, and where they are silent that of an audience.
    fn provider(&self, audience: Option<&str>, blanks: &mut Blanks) -> Provider {
        let named = audience.and_then(Provider::parse);
        let named = named.as_ref();
        let project = named.map(|it| &it.project).filter(|it| *it != NO_NUMBER);
        let project = self.project_number.as_ref().or(project);
        let or_agent = |given: Option<&String>| given.map_or("agent".to_owned(), Clone::clone);
        Provider {
            project: blanks.take(project, "--project-number", NO_NUMBER),
            pool: or_agent(self.pool.as_ref().or(named.map(|it| &it.pool))),
            id: or_agent(self.provider.as_ref().or(named.map(|it| &it.id))),
        }
    }

    /// That of the tokens.
    fn provider_of(&self, facts: &Facts, blanks: &mut Blanks) -> Provider {
        self.provider(facts.audiences.first().map(String::as_str), blanks)
    }
}

impl RelyingParty for GcpArgs {
    fn holder(&self) -> &HolderArgs {
        &self.holder
    }

    fn usual_audience(&self) -> String {
        self.provider(None, &mut Blanks::default()).name()
    }

    fn limits(&self, facts: &Facts) -> Limits {
        let taken_off = Mapping::of(facts).taken_off.len();
        Limits {
            sub: 1..=MAX_SUBJECT + taken_off,
            ..LIMITS
        }
    }

    fn pattern(&self, _: &Facts) -> Option<Concern> {
        let message = "roles are given to every identity that the pool takes".to_owned();
        let help = "let this be the only provider of the pool";
        Some(warning("pattern", message, help))
    }

    fn parts(&self, facts: &Facts, blanks: &mut Blanks) -> Vec<Part> {
        let provider = self.provider_of(facts, blanks);
        let file = self.credentials_file.as_ref();
        let file = blanks.take(file, "--credentials-file", "CREDENTIALS_FILE");
        let credentials = credentials(facts, &provider, self.service_account.as_deref());
        vec![
            Part {
                name: "terraform",
                title: "Terraform",
                text: terraform(facts, &provider, self.service_account.as_deref()),
            },
            Part {
                name: "credentials",
                title: "The credentials file of the workload",
                text: format!("{credentials:#}\n"),
            },
            Part {
                name: "env",
                title: "The environment of the workload",
                text: environment(facts, &file),
            },
        ]
    }
}

/// What becomes of `sub`: all of it, or if it is too long what follows the trust domain.
struct Mapping {
    expression: String,
    taken_off: String,
}

impl Mapping {
    fn of(facts: &Facts) -> Self {
        let subject = &facts.subject;
        let rest = subject.beginning().strip_prefix("spiffe://");
        let domain = rest.and_then(|rest| rest.split_once('/'));
        match domain {
            Some((domain, _)) if subject.longest() > MAX_SUBJECT => {
                let taken_off = format!("spiffe://{domain}/");
                let template = cel(&format!("{taken_off}{{path}}"));
                Self {
                    expression: format!("assertion.sub.extract({template})"),
                    taken_off,
                }
            }
            _ => Self {
                expression: "assertion.sub".to_owned(),
                taken_off: String::new(),
            },
        }
    }
}

fn terraform(facts: &Facts, provider: &Provider, service_account: Option<&str>) -> String {
    let subject = &facts.subject;
    let mapping = Mapping::of(facts);
    let condition = subject.test("assertion.sub", cel);
    let pool = "iam.googleapis.com/${google_iam_workload_identity_pool.agent.name}";
    let principal = match subject.only() {
        Some(sub) => {
            let mapped = sub.strip_prefix(&mapping.taken_off).unwrap_or(sub);
            format!("principal://{pool}/subject/{}", hcl_part(mapped))
        }
        None => format!("principalSet://{pool}/*"),
    };
    let label = facts.label();
    let member = match service_account {
        None => fill(include_str!("gcp.output.tf"), &[("label", &label)]),
        Some(account) => {
            let id = hcl(&format!("projects/-/serviceAccounts/{account}"));
            let values = [("label", label.as_str()), ("service_account_id", &id)];
            fill(include_str!("gcp.member.tf"), &values)
        }
    };
    fill(
        include_str!("gcp.tf"),
        &[
            ("holder", &subject.written),
            ("issuer", facts.issuer.url.as_str()),
            ("audience", facts.audience(&provider.name())),
            ("pool", &provider.pool),
            ("provider", &provider.id),
            ("condition", &hcl(&condition)),
            ("mapping", &hcl(&mapping.expression)),
            ("url", &hcl(facts.issuer.url.as_str())),
            ("allowed", &allowed(facts, provider)),
            ("label", &label),
            ("principal", &principal),
            ("member", &member),
        ],
    )
}

/// The audiences that the provider must list: all but its own name, which it takes unless it lists any.
fn allowed(facts: &Facts, provider: &Provider) -> String {
    let name = provider.name();
    let own = |audience: &str| audience.strip_prefix("https:").unwrap_or(audience) == name;
    if facts.audiences.iter().all(|audience| own(audience)) {
        return String::new();
    }
    let listed = hcl(facts.audience(&name));
    format!("\n    # It takes these instead of its own name.\n    allowed_audiences = [{listed}]\n")
}

/// The file that `GOOGLE_APPLICATION_CREDENTIALS` names.
fn credentials(facts: &Facts, provider: &Provider, service_account: Option<&str>) -> Value {
    let name = provider.name();
    let mut document = json!({
        "type": "external_account",
        "audience": name,
        "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
        "token_url": "https://sts.googleapis.com/v1/token",
        "credential_source": source(facts, &name),
    });
    if let (Some(account), Some(document)) = (service_account, document.as_object_mut()) {
        let url = "https://iamcredentials.googleapis.com/v1/projects/-/serviceAccounts";
        let url = format!("{url}/{account}:generateAccessToken");
        document.insert("service_account_impersonation_url".to_owned(), url.into());
    }
    document
}

fn source(facts: &Facts, provider: &str) -> Value {
    match &facts.source {
        Source::File { path, format, .. } => {
            let mut source = json!({ "file": path });
            if let (Format::Json, Some(source)) = (format, source.as_object_mut()) {
                let format = json!({ "type": "json", "subject_token_field_name": "token" });
                source.insert("format".to_owned(), format);
            }
            source
        }
        Source::Command { .. } => {
            // The libraries tell the command the name of the provider.
            let audience = facts.audience(provider);
            let audience = Some(audience).filter(|audience| *audience != provider);
            let program = facts.program.to_string_lossy();
            // They split it at spaces, and know no quotes.
            let options = options(facts, audience).join(" ");
            let command = format!("{program} fetch-jwt --output gcp-executable {options}");
            json!({ "executable": { "command": command, "timeout_millis": 6000 } })
        }
    }
}

fn environment(facts: &Facts, file: &str) -> String {
    let file = format!("GOOGLE_APPLICATION_CREDENTIALS={}\n", shell(file));
    match facts.source {
        Source::File { .. } => file + &parameter(facts),
        Source::Command { .. } => file + "GOOGLE_EXTERNAL_ACCOUNT_ALLOW_EXECUTABLES=1\n",
    }
}

/// A string of Google's expressions.
fn cel(text: &str) -> String {
    format!("'{}'", text.replace('\\', r"\\").replace('\'', r"\'"))
}

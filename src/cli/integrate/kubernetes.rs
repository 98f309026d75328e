//! Kubernetes: the API server's `AuthenticationConfiguration`, a role binding, a kubeconfig.

use std::time::Duration;

use clap::Args;

use super::super::quote::json;
use super::facts::{Facts, Source};
use super::limits::{Concern, Limits, warning};
use super::text::{Blanks, fill};
use super::workload::{options, parameter};
use super::{HolderArgs, Part, RelyingParty};
use crate::duration::show_duration;

/// Print the configuration of an API server, a role binding, and the kubeconfig of the workload.
///
/// Parts: server, rbac, kubeconfig.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  agent integrate kubernetes --entry billing --server https://10.0.0.1:6443
  agent integrate kubernetes --entry billing --part rbac --cluster-role edit")]
pub struct KubernetesArgs {
    #[command(flatten)]
    holder: HolderArgs,

    /// The address of the API server.
    #[arg(long, value_name = "URL")]
    server: Option<String>,

    /// The file with the certificate authority of the API server, where the workload runs.
    #[arg(long, value_name = "FILE")]
    certificate_authority: Option<String>,

    /// The role that the workload gets.
    #[arg(long, value_name = "NAME", default_value = "view")]
    cluster_role: String,
}

const AUDIENCE: &str = "kubernetes";

const LIMITS: Limits = Limits::of("Kubernetes");

/// The client for Python runs the command again so long before the end of a token.
const RUN_AHEAD: Duration = Duration::from_secs(300);

impl RelyingParty for KubernetesArgs {
    fn holder(&self) -> &HolderArgs {
        &self.holder
    }

    fn usual_audience(&self) -> String {
        AUDIENCE.to_owned()
    }

    fn limits(&self, _: &Facts) -> Limits {
        LIMITS
    }

    /// Its group is of those whose `sub` begins and ends so.
    fn pattern(&self, _: &Facts) -> Option<Concern> {
        None
    }

    fn further(&self, facts: &Facts) -> Option<Concern> {
        let often = matches!(facts.source, Source::Command { .. }) && facts.life <= RUN_AHEAD;
        often.then(|| {
            let message = format!(
                "tokens live for {}, and the client for Python fetches one for each request",
                show_duration(facts.life)
            );
            let help = "write jwt_svid_ttl = \"1h\" in the entry";
            warning("ttl", message, help)
        })
    }

    fn parts(&self, facts: &Facts, blanks: &mut Blanks) -> Vec<Part> {
        let server = blanks.take(self.server.as_ref(), "--server", "https://API_SERVER:6443");
        let authority = self.certificate_authority.as_ref();
        let authority = blanks.take(authority, "--certificate-authority", "CA_FILE");
        vec![
            Part {
                name: "server",
                title: "Configuration of the API server",
                text: server_config(facts),
            },
            Part {
                name: "rbac",
                title: "What the workload may do",
                text: role_binding(facts, &self.cluster_role),
            },
            Part {
                name: "kubeconfig",
                title: "The file that the workload has in KUBECONFIG",
                text: kubeconfig(facts, &server, &authority),
            },
        ]
    }
}

/// The group of all that a path parameter makes.
fn group(facts: &Facts) -> String {
    format!("agent:{}", facts.name)
}

fn server_config(facts: &Facts) -> String {
    let subject = &facts.subject;
    let groups = match subject.only() {
        Some(_) => String::new(),
        None => {
            let is_one = subject.test("claims.sub", json);
            let expression = format!("{is_one} ? [{}] : []", json(&group(facts)));
            format!("    groups:\n      expression: {}\n", json(&expression))
        }
    };
    let audience = facts.audience(AUDIENCE);
    let filled = fill(
        include_str!("kubernetes.yaml"),
        &[
            ("holder", &subject.written),
            ("issuer", facts.issuer.url.as_str()),
            ("audience", audience),
            ("url", &json(facts.issuer.url.as_str())),
            ("audience_quoted", &json(audience)),
            ("groups", &groups),
        ],
    );
    filled.trim_end().to_owned() + "\n"
}

fn role_binding(facts: &Facts, role: &str) -> String {
    let (kind, who) = match facts.subject.only() {
        Some(sub) => ("User", format!("agent:{sub}")),
        None => ("Group", group(facts)),
    };
    fill(
        include_str!("kubernetes.rbac.yaml"),
        &[
            ("name", &facts.name),
            ("role", &json(role)),
            ("kind", kind),
            ("who", &json(&who)),
        ],
    )
}

fn kubeconfig(facts: &Facts, server: &str, authority: &str) -> String {
    fill(
        include_str!("kubernetes.kubeconfig.yaml"),
        &[
            ("name", &facts.name),
            ("server", &json(server)),
            ("authority", &json(authority)),
            ("user", user(facts).trim_end()),
        ],
    )
}

fn user(facts: &Facts) -> String {
    match facts.file() {
        Some(file) => {
            let file = json(&file.to_string_lossy());
            // The client for Go looks at it each minute.
            format!(
                "{}    # The client for Python reads it once: for programs that run for longer than\n    \
                 # {}, use an entry instead.\n    tokenFile: {file}\n",
                parameter(facts).replace('#', "    #"),
                show_duration(facts.least_left())
            )
        }
        None => {
            let mut args = vec!["fetch-jwt".to_owned(), "--output".to_owned()];
            args.push("k8s-exec-credential".to_owned());
            args.extend(options(facts, Some(facts.audience(AUDIENCE))));
            let args: Vec<_> = args
                .iter()
                .map(|arg| format!("      - {}\n", json(arg)))
                .collect();
            format!(
                "    exec:\n      apiVersion: client.authentication.k8s.io/v1\n      command: {}\n      \
                 args:\n{}      interactiveMode: Never\n",
                json(&facts.program.to_string_lossy()),
                args.concat()
            )
        }
    }
}

//! `agent validate`: is the configuration good?

use clap::Args;

use super::{ConfigArgs, Exit, Outcome, count, problem, say};
use crate::attest::sight::Sight;
use crate::config::Config;

/// Check the configuration and print everything that is wrong with it.
///
/// Errors and warnings come with file, line and column; a syntax error comes alone. Exits with 78
/// if there is an error.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  agent validate
  agent validate --print --config ./agent.conf")]
pub struct ValidateArgs {
    #[command(flatten)]
    config: ConfigArgs,

    /// Print the configuration as it is understood, with every default.
    #[arg(long)]
    print: bool,
}

pub(super) fn validate(args: &ValidateArgs) -> Outcome {
    let path = &args.config.config;
    let (config, warnings) = match Config::load(path) {
        Ok(loaded) => loaded,
        Err(report) => {
            problem::diagnosed(report.iter());
            return Ok(Exit::Config);
        }
    };
    for warning in warnings.iter().chain(config.unknown_names().iter()) {
        problem::diagnosed([warning]);
    }
    for lacking in Sight::probe().problems(&config.entries.iter().cloned().collect()) {
        problem::warning(lacking);
    }
    if args.print {
        let printed =
            Config::print(path).map_err(|report| anyhow::Error::msg(report.to_string()))?;
        say(printed.trim_end())?;
    } else {
        say(format_args!(
            "{} is valid: {}, {}, {}",
            path.display(),
            count(config.issuers.len(), "issuer", "issuers"),
            count(config.entries.len(), "entry", "entries"),
            count(config.token_files.len(), "token file", "token files"),
        ))?;
    }
    Ok(Exit::Success)
}

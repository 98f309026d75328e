//! Path parameters of token files.

use std::path::Path;

use super::super::context::{Context, account};
use super::super::hcl::Block;
use crate::attest::names::Account;
use crate::entry::RESERVED_CLAIMS;
use crate::mirror::{DirectoryOwner, Parameter, Pattern};

/// The options that say something about directories that appear.
const OPTIONS: [&str; 3] = ["pattern", "directory_owner", "max_directories"];

/// Which names are taken where nothing is written: parts of host names, and no worse.
const NAMES: &str = "^[a-z0-9][a-z0-9._-]{0,62}$";

/// How many directories are taken where nothing is written.
const MOST: i64 = 4096;

/// The parameter in the path of a block: the inner `None` where it has none.
#[expect(clippy::option_option, reason = "nothing, or no parameter")]
pub fn parameter(block: &Block, context: &mut Context<'_>) -> Option<Option<Parameter>> {
    let Some((parent, name, rest)) = Parameter::split(&block.label) else {
        for option in OPTIONS.into_iter().filter(|option| block.has(option)) {
            let message = format!("{option} is of no use without a path parameter");
            let help = "it says for which directories there is a token: /run/app/:name/token";
            context.report.error(block.place_of(option), message, help);
        }
        return Some(None);
    };
    check_name(block, name, context)?;
    let problem = if rest.is_empty() {
        Some("ends with its path parameter")
    } else if Parameter::split(&format!("/{rest}")).is_some() {
        Some("has more than one path parameter")
    } else if parent.is_empty() {
        Some("has its path parameter at the root")
    } else {
        None
    };
    if let Some(problem) = problem {
        let message = format!("{:?} {problem}", block.label);
        let help = "one component stands for the directories that appear: /run/app/:name/token";
        context.report.error(&block.label_place, message, help);
        return None;
    }
    let pattern = pattern(block, context)?;
    let owner = owner(block, parent, context)?;
    let most = block.int("max_directories").unwrap_or(MOST);
    keep_out(block, Path::new(parent), context);
    Some(Some(Parameter {
        name: name.to_owned(),
        parent: parent.into(),
        rest: rest.into(),
        pattern,
        owner,
        most: usize::try_from(most).unwrap_or(usize::MAX),
    }))
}

fn check_name(block: &Block, name: &str, context: &mut Context<'_>) -> Option<()> {
    let bare = name.strip_prefix(':').unwrap_or(name);
    let starts = bare.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    let plain = bare.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    let (message, help) = if !starts || !plain {
        (
            format!("{name:?} is no name of a path parameter"),
            "write a colon and a name of letters, digits and '_'",
        )
    } else if bare != "sub" && RESERVED_CLAIMS.contains(&bare) {
        (
            format!("a directory cannot choose the claim {bare}"),
            "only :sub sets the claim of its name; another name can stand in spiffe_id, sub and claims",
        )
    } else {
        return Some(());
    };
    context.report.error(&block.label_place, message, help);
    None
}

fn pattern(block: &Block, context: &mut Context<'_>) -> Option<Pattern> {
    let text = block.text("pattern").unwrap_or(NAMES.to_owned());
    Pattern::new(&text)
        .map_err(|error| {
            let message = format!("pattern: {error}");
            let help = "write a regular expression, such as ^[a-z0-9-]+$";
            context
                .report
                .error(block.place_of("pattern"), message, help);
        })
        .ok()
}

fn owner(block: &Block, parent: &str, context: &mut Context<'_>) -> Option<DirectoryOwner> {
    match block.text("directory_owner").as_deref() {
        None => return Some(DirectoryOwner::Only(Account::Id(0))),
        Some("any") => {}
        Some(_) => {
            let account = account(block, "directory_owner", "user", context);
            return account.map(DirectoryOwner::Only);
        }
    }
    let message =
        format!("whoever can make a directory in {parent} chooses the identity in its token");
    let help = "name the user whose directories get one: directory_owner = \"root\"";
    context
        .report
        .warning(block.place_of("directory_owner"), message, help);
    Some(DirectoryOwner::Any)
}

/// No directory of the agent may be one of those that appear.
fn keep_out(block: &Block, parent: &Path, context: &mut Context<'_>) {
    let place = &block.label_place;
    context.refuse_private("the directory of the token files", parent, place);
    let socket = context.socket_path.parent().map(Path::to_owned);
    let webroots = context.issuers.iter();
    let others = webroots
        .map(|issuer| issuer.webroot.directory.clone())
        .chain(socket)
        .find(|other| other.starts_with(parent));
    if let Some(other) = others {
        let message = format!(
            "a directory in {} would get a token, and {} lies there",
            parent.display(),
            other.display()
        );
        let help = "give the directories that appear a directory of their own";
        context.report.error(place, message, help);
    }
}

/// Two blocks must not write the same file.
pub fn refuse_overlaps(root: &Block, context: &mut Context<'_>) {
    let blocks: Vec<_> = root.children("token_file").collect();
    for (at, block) in blocks.iter().enumerate() {
        let mut before = blocks.iter().take(at);
        if let Some(other) = before.find(|other| overlap(&block.label, &other.label)) {
            let message = format!("{:?} writes files of {:?} too", block.label, other.label);
            let help = "give one of them another path";
            context.report.error(&block.label_place, message, help);
        }
    }
}

/// Whether one path, or both, stands for files of the other. The same path written twice is told
/// elsewhere.
fn overlap(one: &str, other: &str) -> bool {
    let (one, other): (Vec<_>, Vec<_>) = (one.split('/').collect(), other.split('/').collect());
    let is_parameter = |part: &&str| part.starts_with(':');
    one != other
        && one.len() == other.len()
        && one
            .iter()
            .zip(&other)
            .all(|(a, b)| a == b || is_parameter(a) || is_parameter(b))
}

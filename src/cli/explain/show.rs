//! An explanation, as it is printed.

use serde_json::{Value, json};

use super::given;
use crate::cli::screen::{Screen, plain};
use crate::pb::explain::v1::{Explanation, Identity, Missing, NearMiss, Withheld};
use crate::selector::Selector;
use crate::terminal::{Look, Style};

/// An explanation for people; `own` is about the command itself.
pub fn to_text(explained: &Explanation, own: bool, look: Look) -> String {
    let mut screen = Screen::new(look);
    let who = if own { "this process" } else { "process" };
    let program = match explained.program.as_str() {
        "" => String::new(),
        path => format!(", runs {path}"),
    };
    let Explanation { pid, uid, .. } = explained;
    let subject = if explained.unattested.is_empty() {
        format!("{who} {pid} of uid {uid}{program}")
    } else {
        format!("process {pid}")
    };
    screen.paragraph(Style::Plain, "", "  ", &subject);
    let style = if given(explained).next().is_some() {
        Style::Good
    } else {
        Style::Bad
    };
    screen.paragraph(style, "", "  ", &verdict(explained));
    if own {
        let about = "This is about the command itself: its program is agent. Root can ask about \
                     another process with --pid.";
        screen.gap();
        screen.paragraph(Style::Dim, "", "", about);
    }
    if let Some(advice) = advice(explained) {
        screen.heading("what is missing", "");
        screen.paragraph(Style::Doubtful, "  ", "    ", &advice);
    }
    if !explained.identities.is_empty() {
        screen.heading("identities", "");
        for identity in &explained.identities {
            show_identity(&mut screen, identity);
        }
    }
    if !explained.nearest.is_empty() {
        screen.heading("nearest entries that do not match", "");
        for miss in &explained.nearest {
            show_miss(&mut screen, miss);
        }
    }
    if !explained.selectors.is_empty() {
        screen.heading("selectors, and where they were read", "");
        for fact in &explained.selectors {
            let source = fact.source.replace("PID", &pid.to_string());
            screen.row(&fact.selector, &source);
        }
    }
    if !explained.unknown.is_empty() {
        screen.heading("not known", "");
        let same = explained
            .unknown
            .chunk_by(|one, next| one.reason == next.reason);
        for unknown in same {
            let names: Vec<_> = unknown.iter().map(|one| one.name.as_str()).collect();
            let reason = unknown.first().map_or("", |one| &one.reason);
            let told = format!("{}: {reason}", names.join(", "));
            screen.paragraph(Style::Plain, "  ", "    ", &told);
        }
    }
    screen.finish()
}

/// What it gets, in a line.
fn verdict(explained: &Explanation) -> String {
    if !explained.unattested.is_empty() {
        return format!("gets nothing: {}", explained.unattested);
    }
    let ids: Vec<_> = given(explained).map(|one| one.spiffe_id.as_str()).collect();
    if !ids.is_empty() {
        return format!("gets {}", ids.join(", "));
    }
    match explained.identities.as_slice() {
        [] => "gets nothing: no entry matches it".to_owned(),
        [only] => format!(
            "gets nothing: it has {}, but {}",
            only.spiffe_id, only.reason
        ),
        _ => "gets nothing: none of its identities is one for this question".to_owned(),
    }
}

/// What it lacks for the nearest entry, where it does not get what was asked for. An audience that is
/// not allowed has been told, and is nothing that it lacks.
fn advice(explained: &Explanation) -> Option<String> {
    let told = |one: &Identity| matches!(one.withheld(), Withheld::Not | Withheld::Audience);
    if explained.identities.iter().any(told) {
        return None;
    }
    let nearest = explained.nearest.first()?;
    Some(advice_on(nearest, explained))
}

fn advice_on(miss: &NearMiss, explained: &Explanation) -> String {
    let NearMiss { entry, .. } = miss;
    if !miss.incomplete.is_empty() {
        return format!("entry {entry} matches, but {}", miss.incomplete);
    }
    let wants: Vec<_> = miss.lacks.iter().map(|one| plain(&one.selector)).collect();
    let has: Vec<_> = miss
        .lacks
        .iter()
        .map(|one| has_instead(one, explained))
        .collect();
    let wants = wants.join(" and ");
    format!(
        "the process has {}; entry {entry} wants {wants}",
        has.join(" and ")
    )
}

/// What it has where an entry wants another selector.
fn has_instead(missing: &Missing, explained: &Explanation) -> String {
    let wanted: Option<Selector> = missing.selector.parse().ok();
    let subject = wanted.as_ref().map_or("", Selector::subject);
    let name = wanted.as_ref().map_or("", Selector::name);
    let kind = wanted.as_ref().map_or("", Selector::kind);
    let unknown = explained
        .unknown
        .iter()
        .find(|unknown| [name, kind].contains(&unknown.name.as_str()));
    match (missing.instead.as_slice(), unknown) {
        ([], Some(unknown)) => format!("no {} ({})", plain(subject), unknown.reason),
        ([], None) => format!("no {}", plain(subject)),
        (instead, _) => {
            let instead: Vec<_> = instead.iter().map(|one| plain(one)).collect();
            instead.join(", ")
        }
    }
}

fn show_identity(screen: &mut Screen, identity: &Identity) {
    let Identity {
        entry, spiffe_id, ..
    } = identity;
    let audiences = match (identity.limit_audiences, identity.audiences.as_slice()) {
        (false, _) => String::new(),
        (true, audiences) => format!(", for {}", audiences.join(", ")),
    };
    let hint = match identity.hint.as_str() {
        "" => String::new(),
        hint => format!(", hint {hint:?}"),
    };
    screen.row(spiffe_id, &format!("entry {entry}{audiences}{hint}"));
    if !identity.reason.is_empty() {
        let told = format!("not given: {}", identity.reason);
        screen.paragraph(Style::Doubtful, "    ", "      ", &told);
    }
}

fn show_miss(screen: &mut Screen, miss: &NearMiss) {
    screen.row(&miss.entry, &miss.spiffe_id);
    for had in &miss.has {
        screen.line(&[(Style::Good, "    has    "), (Style::Plain, had)]);
    }
    for missing in &miss.lacks {
        let selector = &missing.selector;
        screen.line(&[(Style::Bad, "    lacks  "), (Style::Plain, selector)]);
    }
    if !miss.incomplete.is_empty() {
        let told = format!("matches, but {}", miss.incomplete);
        screen.paragraph(Style::Doubtful, "    ", "      ", &told);
    }
}

/// An explanation for programs. Its members are always there.
pub fn to_json(explained: &Explanation) -> Value {
    let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let selectors = explained.selectors.iter();
    let selectors = selectors.map(|fact| json!({"selector": fact.selector, "source": fact.source}));
    let unknown = explained.unknown.iter();
    let unknown = unknown.map(|unknown| json!({"name": unknown.name, "reason": unknown.reason}));
    let identities = explained.identities.iter().map(|identity| {
        json!({
            "entry": identity.entry,
            "spiffe_id": identity.spiffe_id,
            "hint": identity.hint,
            "audiences": identity.limit_audiences.then_some(&identity.audiences),
            "withheld": text(&identity.reason),
        })
    });
    let lacks =
        |missing: &Missing| json!({"selector": missing.selector, "instead": missing.instead});
    let nearest = explained.nearest.iter().map(|miss| {
        json!({
            "entry": miss.entry,
            "spiffe_id": miss.spiffe_id,
            "has": miss.has,
            "lacks": miss.lacks.iter().map(lacks).collect::<Vec<_>>(),
            "incomplete": text(&miss.incomplete),
        })
    });
    let gets: Vec<_> = given(explained).map(|one| &one.spiffe_id).collect();
    json!({
        "pid": explained.pid,
        "uid": explained.uid,
        "gid": explained.gid,
        "program": text(&explained.program),
        "unattested": text(&explained.unattested),
        "gets": gets,
        "missing": advice(explained),
        "selectors": selectors.collect::<Vec<_>>(),
        "unknown": unknown.collect::<Vec<_>>(),
        "identities": identities.collect::<Vec<_>>(),
        "nearest": nearest.collect::<Vec<_>>(),
    })
}

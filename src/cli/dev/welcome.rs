//! What somebody sees who starts `agent dev` for the first time. All of it fits a small terminal.

use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use nix::unistd::Uid;
use serde_json::Value;

use super::{AUDIENCE, CONFIGURATION, ENVIRONMENT, SOCKET, TOKEN_FILE, WEBROOT};
use crate::cli::quote;
use crate::cli::screen::Screen;
use crate::duration::duration_in_words;
use crate::jose::jws::Unverified;
use crate::terminal::{Look, Style};

/// What there is to show.
pub struct Welcome<'a> {
    /// Where everything lies.
    pub directory: &'a Path,
    /// Whether it is removed at the end.
    pub temporary: bool,
    /// Whether the configuration that runs lies there too.
    pub keeps_configuration: bool,
    /// A token that was just fetched.
    pub token: &'a str,
}

impl Welcome<'_> {
    /// The screen.
    ///
    /// # Errors
    ///
    /// The token is none.
    pub fn show(&self, look: Look) -> anyhow::Result<String> {
        let token = Unverified::parse(self.token).context("the agent gave no usable token")?;
        let claims = token.untrusted_payload();
        let subject = claims.get("sub").and_then(Value::as_str);
        let time = |name| claims.get(name).and_then(Value::as_u64);
        let life = time("exp").zip(time("iat"));
        let life = life.map_or(0, |(end, start)| end.saturating_sub(start));
        let life = duration_in_words(Duration::from_secs(life));

        let mut screen = Screen::new(look);
        let uid = Uid::effective();
        let serves = format!(" serves uid {uid} until Ctrl-C.");
        screen.line(&[(Style::Bold, "agent dev"), (Style::Plain, &serves)]);
        let subject = subject.unwrap_or("nobody");
        let about = format!(" of {subject} for the audience {AUDIENCE}, good for {life}:");
        screen.line(&[(Style::Bold, "A token"), (Style::Plain, &about)]);
        // In one piece, as whatever is for copying.
        screen.line(&[(Style::Dim, self.token)]);

        screen.heading("Try it", " in another terminal:");
        let environment = self.directory.join(ENVIRONMENT);
        let source = format!(". {}", quote::shell(&environment.to_string_lossy()));
        for command in [
            source,
            format!("agent fetch-jwt --audience {AUDIENCE}"),
            format!("agent validate-jwt --audience {AUDIENCE} --file \"$SVID_TOKEN_FILE\""),
            format!("agent fetch-jwt --audience {AUDIENCE} --spiffe-id spiffe://dev.test/other"),
            "agent explain".to_owned(),
            "agent status".to_owned(),
        ] {
            screen.line(&[(Style::Plain, "  "), (Style::Action, &command)]);
        }

        let end = if self.temporary {
            ", which is removed at the end:"
        } else {
            ":"
        };
        let place = format!("{}{end}", self.directory.display());
        screen.gap();
        screen.line(&[(Style::Bold, "In "), (Style::Plain, &place)]);
        let mut places = vec![
            (SOCKET, "the socket"),
            (WEBROOT, "for those who verify"),
            (TOKEN_FILE, "a token, kept fresh"),
        ];
        if self.keeps_configuration {
            places.push((CONFIGURATION, "the configuration"));
        }
        for row in places.chunks(2) {
            let cells = row
                .iter()
                .map(|(name, what)| format!("  {name:<12}  {what:<20}"));
            screen.line(&[(Style::Plain, &cells.collect::<String>())]);
        }
        Ok(screen.finish())
    }
}

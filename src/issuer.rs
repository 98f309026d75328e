//! Issuer URLs (OpenID Connect Discovery 1.0, section 3), kept byte for byte as written:
//! verifiers compare `iss` with them without normalising.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

use thiserror::Error;

/// AWS takes no issuer of more bytes.
pub const MAX_AWS_ISSUER: usize = 255;

/// The audience of tokens for AWS, unless somebody chose another. A claim `azp` takes its place there.
pub const AWS_AUDIENCE: &str = "sts.amazonaws.com";

/// Why a text cannot be an issuer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum IssuerUrlError {
    /// Not https, and not http on loopback.
    #[error("it must start with https:// (http:// only on a loopback host)")]
    Scheme,
    /// No usable host.
    #[error("the host must be a name in lower case or an IP address")]
    Host,
    /// The port is no number from 1 to 65535.
    #[error("the port must be a number from 1 to 65535")]
    Port,
    /// A query, a fragment, a user or a character that no verifier agrees on.
    #[error("it may hold a host and a path only: no user, query, fragment, space or '%'")]
    Parts,
    /// A slash at the end: verifiers differ on whether it counts.
    #[error("it must not end with a slash")]
    TrailingSlash,
    /// A path that URL libraries would rewrite.
    #[error("its path must not hold empty, '.' or '..' segments")]
    Segment,
}

/// The URL that `iss` carries and below which the discovery document is found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IssuerUrl {
    text: Arc<str>,
    secure: bool,
    loopback: bool,
    port: Option<u16>,
}

impl IssuerUrl {
    /// The URL as written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether the host is `localhost` or a loopback address.
    pub fn is_loopback(&self) -> bool {
        self.loopback
    }

    /// Whether the scheme is https.
    pub fn is_secure(&self) -> bool {
        self.secure
    }

    /// The port, where one is written.
    pub fn port(&self) -> Option<u16> {
        self.port
    }
}

impl FromStr for IssuerUrl {
    type Err = IssuerUrlError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (secure, rest) = match (text.strip_prefix("https://"), text.strip_prefix("http://")) {
            (Some(rest), _) => (true, rest),
            (None, Some(rest)) => (false, rest),
            (None, None) => return Err(IssuerUrlError::Scheme),
        };
        let (authority, path) = match rest.find('/') {
            Some(slash) => rest.split_at(slash),
            None => (rest, ""),
        };
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/:[]".contains(&byte);
        if !rest.bytes().all(allowed) || path.contains([':', '[', ']']) {
            return Err(IssuerUrlError::Parts);
        }
        let (host, port) = split_port(authority)?;
        let loopback = check_host(host)?;
        if !secure && !loopback {
            return Err(IssuerUrlError::Scheme);
        }
        if path.ends_with('/') {
            return Err(IssuerUrlError::TrailingSlash);
        }
        let mut segments = path.split('/').skip(1);
        if segments.any(|segment| matches!(segment, "" | "." | "..")) {
            return Err(IssuerUrlError::Segment);
        }
        Ok(Self {
            text: text.into(),
            secure,
            loopback,
            port,
        })
    }
}

fn split_port(authority: &str) -> Result<(&str, Option<u16>), IssuerUrlError> {
    let after_host = authority.rfind(']').map_or(0, |bracket| bracket + 1);
    let Some((host_end, port)) = authority
        .get(after_host..)
        .and_then(|rest| rest.split_once(':'))
    else {
        return Ok((authority, None));
    };
    let host = authority
        .get(..after_host + host_end.len())
        .unwrap_or_default();
    match port.parse::<u16>() {
        Ok(number) if number > 0 && port == number.to_string() => Ok((host, Some(number))),
        _ => Err(IssuerUrlError::Port),
    }
}

/// Checks a host and tells whether it is this machine.
fn check_host(host: &str) -> Result<bool, IssuerUrlError> {
    if let Some(inner) = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
        let address: std::net::Ipv6Addr = inner.parse().map_err(|_| IssuerUrlError::Host)?;
        return Ok(address.is_loopback());
    }
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(address.is_loopback());
    }
    let label = |part: &str| {
        !part.is_empty()
            && part
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    };
    if host.split('.').all(label) {
        Ok(host == "localhost")
    } else {
        Err(IssuerUrlError::Host)
    }
}

impl fmt::Display for IssuerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_that_verifiers_would_read_differently_are_refused() {
        use IssuerUrlError::*;
        for (text, why) in [
            ("id.example.org", Scheme),
            ("http://id.example.org", Scheme),
            ("ftp://localhost", Scheme),
            ("https://", Host),
            ("https://ID.example.org", Host),
            ("https://id..example.org", Host),
            ("https://[::1]x", Host),
            ("https://id.example.org:", Port),
            ("https://id.example.org:0443", Port),
            ("https://id.example.org:70000", Port),
            ("https://user@id.example.org", Parts),
            ("https://id.example.org?x=1", Parts),
            ("https://id.example.org/a#b", Parts),
            ("https://id.example.org/%61", Parts),
            ("https://id.example.org/a b", Parts),
            ("https://id.example.org/", TrailingSlash),
            ("https://id.example.org/a/", TrailingSlash),
            ("https://id.example.org//a", Segment),
            ("https://id.example.org/a/../b", Segment),
        ] {
            assert_eq!(text.parse::<IssuerUrl>(), Err(why), "{text}");
        }
    }

    #[test]
    fn good_forms_keep_their_bytes_and_tell_where_they_point() {
        for (text, loopback, port) in [
            ("https://id.example.org", false, None),
            ("https://id.example.org/tenants/A_b.c-1", false, None),
            ("https://id.example.org:8443", false, Some(8443)),
            ("http://localhost:8080/x", true, Some(8080)),
            ("https://[::1]:8443", true, Some(8443)),
            ("http://127.0.0.1", true, None),
        ] {
            let url: IssuerUrl = text.parse().expect(text);
            assert_eq!(url.as_str(), text);
            assert_eq!(url.is_loopback(), loopback, "{text}");
            assert_eq!(url.port(), port, "{text}");
        }
    }
}

//! Trust domain names and SPIFFE IDs (SPIFFE-ID, section 2).
//!
//! Both are read byte by byte and never normalised: two spellings are two identities, so there
//! is exactly one spelling that parses. `FromStr` is the only way in.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use thiserror::Error;

const SCHEME: &str = "spiffe://";
/// SPIFFE-ID, section 2.3: the longest identifier that everybody must support, in bytes.
const MAX_ID_BYTES: usize = 2048;
/// SPIFFE-ID, section 2.3: the longest trust domain name, in bytes.
const MAX_TRUST_DOMAIN_BYTES: usize = 255;

/// Why a text is no SPIFFE ID or no trust domain name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum SpiffeIdError {
    /// The text is empty.
    #[error("it is empty")]
    Empty,
    /// The scheme is missing or not in lower case.
    #[error("it must start with spiffe://")]
    Scheme,
    /// The text is longer than 2048 bytes.
    #[error("it is longer than 2048 bytes")]
    TooLong,
    /// Nothing stands between `spiffe://` and the path.
    #[error("the trust domain is empty")]
    TrustDomainEmpty,
    /// The trust domain is longer than 255 bytes.
    #[error("the trust domain is longer than 255 bytes")]
    TrustDomainTooLong,
    /// The trust domain holds a byte that is not allowed: a port, a user, an upper-case letter.
    #[error("the trust domain may hold only a-z, 0-9, '.', '-' and '_'")]
    TrustDomainChar,
    /// The path ends with a slash.
    #[error("it must not end with a slash")]
    TrailingSlash,
    /// Two slashes follow each other.
    #[error("the path has an empty segment")]
    EmptySegment,
    /// A segment is `.` or `..`.
    #[error("the path has a '.' or '..' segment")]
    DotSegment,
    /// The path holds a byte that is not allowed: a query, a percent sign, a space.
    #[error("the path may hold only letters, digits, '.', '-' and '_' between slashes")]
    PathChar,
}

/// The name of a trust domain, without scheme: `example.org`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TrustDomain(Arc<str>);

impl TrustDomain {
    /// The name alone.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The SPIFFE ID of the trust domain itself, `spiffe://example.org`: the key of the bundle
    /// maps of the Workload API.
    pub fn id(&self) -> String {
        format!("{SCHEME}{}", self.0)
    }
}

impl FromStr for TrustDomain {
    type Err = SpiffeIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() {
            return Err(SpiffeIdError::TrustDomainEmpty);
        }
        if text.len() > MAX_TRUST_DOMAIN_BYTES {
            return Err(SpiffeIdError::TrustDomainTooLong);
        }
        let allowed = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_');
        if !text.bytes().all(allowed) {
            return Err(SpiffeIdError::TrustDomainChar);
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// A SPIFFE ID; its path may be empty, in which case it names a trust domain and no workload.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpiffeId {
    text: Arc<str>,
    trust_domain: TrustDomain,
}

impl SpiffeId {
    /// The whole identifier, `spiffe://example.org/billing`.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The same, shared.
    pub fn shared(&self) -> Arc<str> {
        Arc::clone(&self.text)
    }

    /// The trust domain it belongs to.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The path with its leading slash; empty for a trust domain's own identifier.
    pub fn path(&self) -> &str {
        self.text
            .get(SCHEME.len() + self.trust_domain.as_str().len()..)
            .unwrap_or_default()
    }
}

impl FromStr for SpiffeId {
    type Err = SpiffeIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() {
            return Err(SpiffeIdError::Empty);
        }
        if text.len() > MAX_ID_BYTES {
            return Err(SpiffeIdError::TooLong);
        }
        let rest = text.strip_prefix(SCHEME).ok_or(SpiffeIdError::Scheme)?;
        let (trust_domain, path) = match rest.find('/') {
            Some(slash) => rest.split_at(slash),
            None => (rest, ""),
        };
        let trust_domain = trust_domain.parse()?;
        check_path(path)?;
        Ok(Self {
            text: text.into(),
            trust_domain,
        })
    }
}

/// Checks a path that is empty or starts with a slash.
fn check_path(path: &str) -> Result<(), SpiffeIdError> {
    let Some(segments) = path.strip_prefix('/') else {
        return Ok(());
    };
    if path.ends_with('/') {
        return Err(SpiffeIdError::TrailingSlash);
    }
    for segment in segments.split('/') {
        match segment {
            "" => return Err(SpiffeIdError::EmptySegment),
            "." | ".." => return Err(SpiffeIdError::DotSegment),
            _ => {}
        }
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
        if !segment.bytes().all(allowed) {
            return Err(SpiffeIdError::PathChar);
        }
    }
    Ok(())
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.text, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_invalid_form_of_the_standard_is_refused_for_its_reason() {
        use SpiffeIdError::*;
        let long = format!("spiffe://td/{}", "a".repeat(2048 - 11));
        let long_domain = format!("spiffe://{}/a", "a".repeat(256));
        for (text, why) in [
            ("", Empty),
            ("spiffe:/td/a", Scheme),
            ("http://td/a", Scheme),
            ("SPIFFE://td/a", Scheme),
            ("spiffe://", TrustDomainEmpty),
            ("spiffe:///a", TrustDomainEmpty),
            ("spiffe://td:8080/a", TrustDomainChar),
            ("spiffe://td:/a", TrustDomainChar),
            ("spiffe://u@td/a", TrustDomainChar),
            ("spiffe://t$d/a", TrustDomainChar),
            ("spiffe://t%64/a", TrustDomainChar),
            ("spiffe://[::1]/a", TrustDomainChar),
            ("spiffe://TD/a", TrustDomainChar),
            ("spiffe://td?x", TrustDomainChar),
            (&long_domain, TrustDomainTooLong),
            ("spiffe://td/", TrailingSlash),
            ("spiffe://td/a/", TrailingSlash),
            ("spiffe://td//a", EmptySegment),
            ("spiffe://td/a//b", EmptySegment),
            ("spiffe://td/./a", DotSegment),
            ("spiffe://td/a/..", DotSegment),
            ("spiffe://td/%41", PathChar),
            ("spiffe://td/a!b", PathChar),
            ("spiffe://td/a b", PathChar),
            ("spiffe://td/a:b", PathChar),
            ("spiffe://td/a~b", PathChar),
            ("spiffe://td/ä", PathChar),
            ("spiffe://td/a?x=1", PathChar),
            ("spiffe://td/a#f", PathChar),
            (&long, TooLong),
        ] {
            assert_eq!(text.parse::<SpiffeId>(), Err(why), "{text}");
        }
    }

    #[test]
    fn every_valid_edge_of_the_standard_is_taken_and_printed_unchanged() {
        let longest = format!("spiffe://td/{}", "a".repeat(2048 - 12));
        let longest_domain = format!("spiffe://{}", "a".repeat(255));
        for text in [
            "spiffe://td",
            "spiffe://td_1.example-2.org/x",
            "spiffe://192.168.1.1/x",
            "spiffe://td/Path.With-Mixed_Case",
            "spiffe://td/..x/x../...",
            &longest,
            &longest_domain,
        ] {
            let id: SpiffeId = text.parse().expect(text);
            assert_eq!(id.to_string(), text);
        }
    }

    #[test]
    fn each_byte_of_a_path_and_of_a_trust_domain_is_judged_by_its_own_alphabet() {
        for byte in 0..=u8::MAX {
            let letter = char::from(byte);
            let in_path = letter.is_ascii_alphanumeric() || ".-_/".contains(letter);
            assert_eq!(
                format!("spiffe://td/a{letter}b")
                    .parse::<SpiffeId>()
                    .is_ok(),
                in_path,
                "{byte}"
            );
            let in_domain =
                letter.is_ascii_lowercase() || letter.is_ascii_digit() || ".-_/".contains(letter);
            assert_eq!(
                format!("spiffe://a{letter}b").parse::<SpiffeId>().is_ok(),
                in_domain,
                "{byte}"
            );
        }
    }

    #[test]
    fn the_parts_are_those_that_were_written() {
        let id: SpiffeId = "spiffe://example.org/a/b".parse().unwrap();
        assert_eq!(id.trust_domain().as_str(), "example.org");
        assert_eq!(id.path(), "/a/b");
        assert_eq!(id.trust_domain().id(), "spiffe://example.org");
    }
}

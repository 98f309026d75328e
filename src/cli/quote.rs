//! Texts as words of other languages.

use serde_json::Value;

/// As one word for a shell, and as a value in an environment file of systemd.
pub(super) fn shell(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-:@%+=,".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

/// As a string of JSON, and so of YAML and nginx.
pub(super) fn json(text: &str) -> String {
    Value::from(text).to_string()
}

/// As a string of HCL, in which nothing is computed.
pub(super) fn hcl(text: &str) -> String {
    format!("\"{}\"", hcl_part(text))
}

/// As a part of a string of HCL.
pub(super) fn hcl_part(text: &str) -> String {
    let json = json(text);
    let inner = json
        .strip_prefix('"')
        .and_then(|rest| rest.strip_suffix('"'));
    let inner = inner.unwrap_or_default();
    inner.replace("${", "$${").replace("%{", "%%{")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_with_special_characters_are_quoted_for_the_shell() {
        assert_eq!(shell("/usr/bin/agent"), "/usr/bin/agent");
        assert_eq!(shell("/a b/it's"), r"'/a b/it'\''s'");
        assert_eq!(shell(""), "''");
    }

    #[test]
    fn nothing_in_a_string_of_hcl_is_computed() {
        assert_eq!(hcl(r#"a"${b}%{c}"#), r#""a\"$${b}%%{c}""#);
    }
}

//! Parts of the documentation that are made from the source, each between two marks on its page.

use std::fs;
use std::path::Path;

/// Makes sure that what stands on a page of `docs/` between the marks is `text`, or writes it there
/// if `SVID_AGENT_WRITE_DOCS` is set.
pub(crate) fn assert_made(page: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("docs")
        .join(page);
    let old = fs::read_to_string(&path).unwrap();
    let (begin, end) = ("<!-- made from the source -->\n", "<!-- end -->\n");
    let (before, rest) = old.split_once(begin).expect("the first mark");
    let (_, after) = rest.split_once(end).expect("the second mark");
    let new = format!("{before}{begin}\n{}\n\n{end}{after}", text.trim());
    if std::env::var_os("SVID_AGENT_WRITE_DOCS").is_some() {
        fs::write(&path, &new).unwrap();
    }
    let stale = fs::read_to_string(&path).unwrap() != new;
    assert!(
        !stale,
        "docs/{page} is stale: run SVID_AGENT_WRITE_DOCS=1 cargo test --lib documentation"
    );
}

/// A text as a cell of a table, or in a sentence: nothing in it is markup.
pub(crate) fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for c in text.chars() {
        if matches!(c, '<' | '[' | '|' | '*' | '{') {
            plain.push('\\');
        }
        plain.push(c);
    }
    plain
}

//! Guesses at what was meant where a file cannot be parsed: habits of other languages, and what
//! fingers forget.

/// A hint at how to mend a syntax error in `line` of `text`; empty where nothing comes to mind.
pub fn help(text: &str, line: &str, message: &str) -> &'static str {
    let code = without_comment(line);
    let start = code.trim_start();
    if text.starts_with('\u{feff}') {
        "the file starts with a byte order mark: save it without one"
    } else if text.trim_start().starts_with('{') {
        "the file is written in HCL, not in JSON: see agent.conf.example"
    } else if message.contains("redefined attribute") {
        "an option stands twice in one block: remove one of them"
    } else if code.contains(['\'', '\u{2018}', '\u{2019}', '\u{201c}', '\u{201d}']) {
        "strings stand in straight double quotes"
    } else if code.matches('"').count() % 2 == 1 {
        "a double quote is missing in this line"
    } else if start.starts_with('"') {
        "names of options stand without quotes"
    } else if one_line_block(code) {
        "a block on one line holds one option and no block: put each on a line of its own"
    } else if code.trim_end().ends_with([',', ';']) {
        "options end with the line, without a comma or semicolon"
    } else if unclosed(text) {
        "a block or a quote is opened and not closed: look for a missing } or \""
    } else if start.starts_with('}') {
        "there is one } too many"
    } else {
        ""
    }
}

fn without_comment(line: &str) -> &str {
    line.split('#').next().unwrap_or_default()
}

fn one_line_block(code: &str) -> bool {
    code.contains('{') && code.trim_end().ends_with('}') && !code.contains("= {")
}

fn unclosed(text: &str) -> bool {
    let code: Vec<_> = text.lines().map(without_comment).collect();
    let count = |c: char| {
        code.iter()
            .map(|line| line.matches(c).count())
            .sum::<usize>()
    };
    count('{') > count('}') || count('"') % 2 == 1
}

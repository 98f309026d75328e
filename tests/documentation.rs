//! The documentation tells what is there: its links lead somewhere, its examples are taken by the
//! binary, its words are those of the program. What is made from the source is compared where that is
//! known (`documentation_of_...` in `src`); the commands of `docs/getting-started.md` run in `.ci/run`.

mod common;
#[path = "common/source.rs"]
mod source;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use common::{Sandbox, documented, issuer, text};
use regex_lite::{Regex, escape};
use source::code;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every page that people read, by its path below the root.
fn pages() -> BTreeMap<PathBuf, String> {
    let mut pages = BTreeMap::new();
    for folder in ["", "docs"] {
        for file in fs::read_dir(root().join(folder)).unwrap() {
            let path = file.unwrap().path();
            if path.extension().is_some_and(|kind| kind == "md") {
                let name = path.strip_prefix(root()).unwrap().to_owned();
                pages.insert(name, fs::read_to_string(path).unwrap());
            }
        }
    }
    assert!(pages.len() > 20);
    pages
}

fn page(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap()
}

/// Fails with all that is wrong at once.
fn none(wrong: &[String]) {
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

/// A page without its blocks of code, and those blocks, each with what stands behind its fence.
fn blocks(page: &str) -> (String, Vec<(String, String)>) {
    let (mut prose, mut blocks) = (String::new(), Vec::new());
    let mut block: Option<(String, String)> = None;
    for line in page.lines() {
        let fence = line.trim_start().strip_prefix("```");
        match (fence, &mut block) {
            (Some(language), None) => block = Some((language.to_owned(), String::new())),
            (Some(_), Some(_)) => blocks.extend(block.take()),
            (None, Some((_, text))) => *text += &format!("{line}\n"),
            (None, None) => prose += &format!("{line}\n"),
        }
    }
    assert_eq!(block, None, "a block is not closed");
    (prose, blocks)
}

/// The pieces of code that stand in sentences and tables.
fn spans(page: &str) -> Vec<String> {
    let (prose, _) = blocks(page);
    let lines = prose.lines().filter(|line| !line.starts_with("    "));
    let spans = lines.flat_map(|line| line.split('`').skip(1).step_by(2));
    spans.map(str::to_owned).collect()
}

/// The anchors of a page, as GitHub makes them of headings.
fn anchors(page: &str) -> BTreeSet<String> {
    let (prose, _) = blocks(page);
    let mut anchors = BTreeSet::new();
    for heading in prose.lines().filter(|line| line.starts_with('#')) {
        let title = heading.trim_start_matches('#').trim().to_lowercase();
        let kept = title
            .chars()
            .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        let anchor: String = kept.map(|c| if c == ' ' { '-' } else { c }).collect();
        assert!(
            anchors.insert(anchor),
            "the heading {heading:?} is there twice"
        );
    }
    anchors
}

/// Where the links of a page lead that stay in the repository.
fn links(page: &str) -> Vec<String> {
    let (prose, _) = blocks(page);
    let code = Regex::new("`[^`]*`").unwrap();
    let prose = code.replace_all(&prose, "code");
    let link = Regex::new(r"\]\(([^()\s]+)\)").unwrap();
    let targets = link.captures_iter(&prose).map(|found| found[1].to_owned());
    targets
        .filter(|target| !target.starts_with("https://"))
        .collect()
}

#[test]
fn every_link_leads_to_a_file_that_is_there_and_to_one_of_its_headings() {
    let mut wrong = Vec::new();
    let mut count = 0;
    for (path, page) in pages() {
        for target in links(&page) {
            let (file, anchor) = target.split_once('#').unwrap_or((&target, ""));
            let there = match file {
                "" => root().join(&path),
                file => root().join(&path).parent().unwrap().join(file),
            };
            let found = fs::read_to_string(&there);
            let leads =
                found.is_ok_and(|text| anchor.is_empty() || anchors(&text).contains(anchor));
            if !leads {
                wrong.push(format!("{}: {target} leads nowhere", path.display()));
            }
            count += 1;
        }
    }
    none(&wrong);
    assert!(count > 100, "{count}");
}

#[test]
fn the_contents_name_every_page_once_and_the_readme_names_the_contents() {
    let listed = links(&page("docs/README.md"));
    let once: BTreeSet<_> = listed.iter().collect();
    assert_eq!(once.len(), listed.len(), "a page is listed twice");
    let mut wrong = Vec::new();
    for path in pages().keys() {
        let Ok(name) = path.strip_prefix("docs") else {
            continue;
        };
        let name = name.to_str().unwrap().to_owned();
        if name != "README.md" && !listed.contains(&name) {
            wrong.push(format!("the contents lack {name}"));
        }
    }
    none(&wrong);
    let readme = links(&page("README.md"));
    for target in ["docs/README.md", "docs/getting-started.md"] {
        assert!(readme.iter().any(|link| link == target), "{target}");
    }
}

/// An example as a whole configuration: what it leaves to the rest of the file comes before it.
fn whole(example: &str) -> String {
    let has = |block: &str| example.lines().any(|line| line.starts_with(block));
    let agent = "agent {\n  trust_domain = \"example.org\"\n}\n";
    let key = issuer("main", "https://id.example.org", "RS256");
    let entry = match example.contains(" = \"billing\"\n") {
        true => common::entry("billing", 1001),
        false => String::new(),
    };
    let before = [("agent {", agent), ("issuer ", &key), ("entry ", &entry)];
    let before = before.iter().filter(|(block, _)| !has(block));
    before.map(|(_, text)| *text).chain([example]).collect()
}

#[test]
fn every_configuration_in_the_documentation_is_taken_by_the_binary_without_a_warning() {
    let sandbox = Sandbox::new("");
    let config = sandbox.config();
    let mut wrong = Vec::new();
    let mut count = 0;
    let mut check = |name: String, text: &str| {
        fs::write(&config, text).unwrap();
        let output = sandbox.run(&["validate", "--config", config.to_str().unwrap()]);
        let report = common::text(&output.stderr);
        // That this machine lacks a user is no fault of an example.
        let told = report
            .lines()
            .filter(|line| line.contains(": error: ") || line.contains(": warning: "));
        let told: Vec<_> = told
            .filter(|line| !line.contains(" on this machine"))
            .collect();
        if !told.is_empty() || !output.status.success() {
            wrong.push(format!("{name}: {}\nin\n{text}", told.join("\n")));
        }
        count += 1;
    };
    for (path, page) in pages() {
        for (language, text) in blocks(&page).1 {
            match language.as_str() {
                "hcl" => check(path.display().to_string(), &whole(&text)),
                "sh" | "text" | "json" | "yaml" | "nginx" | "apache" => {}
                shell if shell.starts_with("sh ") => {}
                other => panic!("{}: a block of {other:?}", path.display()),
            }
        }
    }
    for name in ["agent.conf.example", "packaging/agent.conf"] {
        let shipped = page(name).replace(
            "url = \"https://localhost\"",
            "url = \"https://id.example.org\"",
        );
        check(name.to_owned(), &shipped);
    }
    none(&wrong);
    assert!(count > 12, "{count}");
}

#[test]
fn every_json_in_the_documentation_is_json() {
    for (path, page) in pages() {
        for (language, text) in blocks(&page).1 {
            let parses = |text: &str| serde_json::from_str::<serde_json::Value>(text).is_ok();
            let fits = language != "json" || parses(&text) || parses(&format!("{{{text}}}"));
            assert!(fits, "{}: {text}", path.display());
        }
    }
}

/// What `agent validate` says of an entry with these lines.
fn said_of(lines: &str) -> String {
    let on = "attestor \"unix\" {\n  discover_workload_path = true\n}\nattestor \"systemd\" {\n}\nattestor \"docker\" {\n}\n";
    let entry = format!("entry \"e\" {{\n{lines}\n}}\n");
    let sandbox = Sandbox::new(&(issuer("main", "https://id.example.org", "RS256") + on + &entry));
    let config = sandbox.config();
    text(
        &sandbox
            .run(&["validate", "--config", config.to_str().unwrap()])
            .stderr,
    )
}

/// The names of selectors that there are, as the binary tells whoever writes one that is not.
fn selectors() -> BTreeSet<String> {
    let wrong = [
        "unix:no:1",
        "systemd:no:1",
        "docker:no:1",
        "container:no",
        "ns:no",
        "no:1",
    ];
    let report = said_of(&format!(
        "  spiffe_id = \"spiffe://example.org/e\"\n  selectors = {wrong:?}"
    ));
    let help: Vec<_> = report
        .lines()
        .filter_map(|line| line.trim().strip_prefix("help: "))
        .collect();
    assert_eq!(help.len(), wrong.len(), "{report}");
    let (kinds, _) = help[5]
        .split_once("there are ")
        .unwrap()
        .1
        .split_once(", such as")
        .unwrap();
    let kinds: Vec<_> = kinds
        .split([',', ' '])
        .filter(|it| !it.is_empty() && *it != "and")
        .collect();
    assert_eq!(kinds, ["unix", "systemd", "docker", "container", "ns"]);
    let mut names = BTreeSet::from(["container:id".to_owned(), "ns:host".to_owned()]);
    assert!(help[3].contains("container:id:") && help[4].contains("ns:host alone"));
    for (kind, help) in kinds.iter().zip(&help[..3]) {
        let list = help.rsplit_once("there are ").unwrap().1;
        let list = list
            .split([',', ' '])
            .filter(|it| !it.is_empty() && *it != "and");
        for name in list {
            let name = name.rsplit(':').next().unwrap();
            names.insert(format!("{kind}:{name}"));
        }
    }
    names
}

fn name_of(selector: &str) -> String {
    selector.split(':').take(2).collect::<Vec<_>>().join(":")
}

#[test]
fn the_tables_of_selectors_hold_those_that_there_are() {
    let there = selectors();
    assert_eq!(there.len(), 17, "{there:?}");
    let manual = page("docs/selectors.md");
    let tables = ["unix", "container and ns", "docker", "systemd"];
    let listed = tables
        .iter()
        .flat_map(|heading| documented(&manual, heading));
    assert_eq!(
        listed.map(|it| name_of(&it)).collect::<BTreeSet<_>>(),
        there
    );

    let example = page("agent.conf.example").replace("\n#", "");
    let list = example
        .split(" Selectors: ")
        .nth(1)
        .unwrap()
        .split(".\n")
        .next()
        .unwrap();
    let listed: BTreeSet<_> = list.split(", ").map(|it| it.trim().to_owned()).collect();
    assert_eq!(listed, there);

    let form = Regex::new("^(unix|systemd|docker|container|ns):[a-z0-9_]+").unwrap();
    let foreign = ["docker:image"];
    let mut wrong = Vec::new();
    for (path, page) in pages() {
        for span in spans(&page) {
            let named = form.find(&span).map(|found| found.as_str());
            if let Some(name) =
                named.filter(|name| !there.contains(*name) && !foreign.contains(name))
            {
                wrong.push(format!("{}: there is no {name}", path.display()));
            }
        }
    }
    none(&wrong);
}

#[test]
fn the_table_of_fields_holds_those_that_templates_take() {
    let table = documented(&page("docs/entries.md"), "Templates");
    assert_eq!(table.len(), 10, "{table:?}");
    let all: String = page("docs/entries.md");
    let rows = all.lines().filter(|line| line.starts_with("| `{"));
    let mut listed = BTreeSet::new();
    for row in rows {
        for span in row.split('`').skip(1).step_by(2) {
            listed.insert(span.to_owned());
        }
    }
    let taken = |field: &str, id: &str| {
        let claims = format!("  claims = {{ x = \"{field}\" }}\n");
        let rest = format!(
            "  spiffe_id = \"spiffe://example.org/u/{id}\"\n  selectors = [\"unix:gid:1\"]\n"
        );
        !said_of(&(rest + &claims)).contains(": error: ")
    };
    for selector in selectors() {
        let field = match selector.as_str() {
            "docker:label" | "docker:env" => format!("{{{selector}:KEY}}"),
            name => format!("{{{name}}}"),
        };
        assert_eq!(taken(&field, "x"), listed.contains(&field), "{field}");
        if listed.contains(&field) {
            let row = all
                .lines()
                .find(|line| line.starts_with("| `{") && line.contains(&field));
            let in_claims_only = row.unwrap().contains("in claims only");
            assert_eq!(!taken("x", &field), in_claims_only, "{field}");
        }
    }
}

#[test]
fn exit_codes_are_those_of_the_table() {
    let commands = page("docs/commands.md");
    let section = commands.split("\n## Exit codes\n").nth(1).unwrap();
    let section = section.split("\n## ").next().unwrap();
    let first = |line: &str| {
        line.strip_prefix("| ")?
            .split(" |")
            .next()?
            .parse::<u8>()
            .ok()
    };
    let mut there: BTreeSet<_> = section.lines().filter_map(first).collect();
    assert_eq!(there, BTreeSet::from([0, 1, 2, 3, 4, 70, 78]));
    // Those of `agent exec` for its program, as shells have them.
    there.extend([126, 127, 128]);
    let number = Regex::new(r"(?i)exit(?:s| code| codes)?(?: is| with| =|=)? ?(\d+)").unwrap();
    let mut count = 0;
    for (path, page) in pages() {
        let tables = page.split("| exit code | means |\n|---|---|\n").skip(1);
        let rows = tables.flat_map(|rest| rest.lines().take_while(|line| line.starts_with('|')));
        let in_tables = rows.filter_map(|row| row.split('|').nth(1));
        let in_tables = in_tables
            .flat_map(|cell| cell.split(", "))
            .filter_map(|it| it.trim().parse().ok());
        let told = page.replace('\n', " ");
        let in_words = number
            .captures_iter(&told)
            .filter_map(|found| found[1].parse().ok());
        for code in in_tables.chain(in_words) {
            assert!(
                there.contains(&code),
                "{}: nothing ends with {code}",
                path.display()
            );
            count += 1;
        }
    }
    assert!(count > 25, "{count}");
}

/// The source without its tests and comments, each file in one piece, strings without line breaks.
fn sources() -> Vec<String> {
    let continued = Regex::new(r"\\\n\s*").unwrap();
    let whole = |(path, text): (PathBuf, String)| {
        let lines = code(&path, &text).lines();
        let lines = lines.filter(|line| !line.trim_start().starts_with("//"));
        let code: String = lines.map(|line| format!("{line}\n")).collect();
        continued.replace_all(&code, "").into_owned()
    };
    source::sources().into_iter().map(whole).collect()
}

#[test]
fn every_error_message_in_troubleshooting_is_one_of_the_program() {
    let sources = sources();
    let page = page("docs/troubleshooting.md");
    let headings = page
        .lines()
        .filter_map(|line| line.strip_prefix("### `")?.strip_suffix('`'));
    let mut wrong = Vec::new();
    let mut count = 0;
    for heading in headings {
        // What stands between is filled in.
        let parts: Vec<_> = heading.trim_matches('.').split("...").collect();
        let escaped: Vec<_> = parts.iter().map(|part| escape(part)).collect();
        let message = escaped.join(r"\{[^{}]*\}");
        let message = Regex::new(message.trim_end_matches(r"\{[^{}]*\}")).unwrap();
        let has_parts = |source: &&String| parts.iter().all(|part| source.contains(part));
        let mut likely = sources.iter().filter(has_parts);
        if !likely.any(|source| message.is_match(source)) {
            wrong.push(format!("no source has {heading:?}"));
        }
        count += 1;
    }
    none(&wrong);
    assert!(count > 40, "{count}");
}

/// Words of others that the pages use as code.
const OTHERS: [&str; 10] = [
    "bound_claims",
    "credential_source",
    "expires_at",
    "https_web",
    "issued_at",
    "output_file",
    "spiffe_refresh_hint",
    "spiffe_sequence",
    "thumbprint_list",
    "timeout_millis",
];

#[test]
fn every_name_in_the_documentation_is_one_that_there_is() {
    let tables = [
        "docs/configuration.md",
        "docs/metrics.md",
        "docs/explain.md",
    ]
    .map(page);
    let cells = tables.iter().flat_map(|page| page.lines());
    let cells = cells.filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    let mut known: BTreeSet<String> = cells.map(str::to_owned).collect();
    let name = Regex::new("^[a-z][a-z0-9]*(_[a-z0-9]+)+$").unwrap();
    let mut others = BTreeSet::new();
    let mut wrong = Vec::new();
    known.extend(
        selectors()
            .iter()
            .map(|it| it.split(':').nth(1).unwrap().to_owned()),
    );
    known.extend(["token_file", "svid_agent_key_activations_total"].map(str::to_owned));
    for (path, page) in pages() {
        let of_others = [
            "from-spire.md",
            "from-diridp.md",
            "conformance.md",
            "ARCHITECTURE.md",
        ];
        if of_others.iter().any(|other| path.ends_with(other)) {
            continue;
        }
        for span in spans(&page) {
            let word = span.split(" = ").next().unwrap().to_owned();
            if !name.is_match(&word) || known.contains(&word) {
                continue;
            }
            if OTHERS.contains(&word.as_str()) {
                others.insert(word);
            } else {
                wrong.push(format!("{}: nothing is called {word}", path.display()));
            }
        }
    }
    none(&wrong);
    assert_eq!(others, OTHERS.iter().map(ToString::to_string).collect());
}

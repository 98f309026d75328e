//! Manual pages and completions, by the programs that read them.

mod common;

use std::fs;
use std::process::Command;

use common::{Need, Sandbox, have, text};

#[test]
fn groff_has_nothing_to_say_about_the_manual_pages() {
    if !have(&[Need::Groff]) {
        return;
    }
    let sandbox = Sandbox::new("");
    let directory = sandbox.path("man");
    fs::create_dir(&directory).unwrap();
    let output = sandbox.run(&["man", directory.to_str().unwrap()]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let mut pages = 0;
    for page in fs::read_dir(&directory).unwrap() {
        let page = page.unwrap().path();
        let mut groff = Command::new("groff");
        let read = groff.args(["-man", "-Tutf8", "-ww", "-z"]).arg(&page);
        let read = read.output().unwrap();
        assert_eq!(text(&read.stderr), "", "{page:?}");
        assert!(read.status.success(), "{page:?}");
        pages += 1;
    }
    assert!(pages > 20, "{pages}");
    let nowhere = sandbox.run(&["man", "/nonexistent"]);
    assert!(text(&nowhere.stderr).contains("cannot write /nonexistent/"));
}

#[test]
fn bash_completes_commands_and_options() {
    let sandbox = Sandbox::new("");
    let script = sandbox.path("agent.bash");
    fs::write(&script, sandbox.run(&["completions", "bash"]).stdout).unwrap();
    let complete = |words: &[&str]| {
        let current = words.last().unwrap();
        let ask = "source \"$1\"; shift; COMP_WORDS=(\"$@\"); COMP_CWORD=$(($# - 1)); \
                   _agent agent \"${COMP_WORDS[COMP_CWORD]}\" \"${COMP_WORDS[COMP_CWORD-1]}\"; echo \"${COMPREPLY[@]}\"";
        let mut bash = Command::new("bash");
        bash.args(["-c", ask, "bash"]).arg(&script).args(words);
        let output = bash.output().unwrap();
        assert_eq!(text(&output.stderr), "", "{current}");
        text(&output.stdout).trim().to_owned()
    };
    assert_eq!(complete(&["agent", "integ"]), "integrate");
    assert_eq!(complete(&["agent", "integrate", "kube"]), "kubernetes");
    assert_eq!(complete(&["agent", "fetch-jwt", "--aud"]), "--audience");
    assert_eq!(complete(&["agent", "ma"]), "", "that is for packages");
}

#[test]
fn every_shell_that_is_offered_gets_completions() {
    let sandbox = Sandbox::new("");
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let output = sandbox.run(&["completions", shell]);
        assert!(output.status.success(), "{shell}");
        assert!(text(&output.stdout).contains("integrate"), "{shell}");
    }
    assert_eq!(sandbox.run(&["completions", "tcsh"]).status.code(), Some(2));
}

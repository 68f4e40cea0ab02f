//! What the README promises is what the program says of itself.

use pgbox::settings::contract_table;
use std::fs;
use std::process::Command;

const README: &str = include_str!("../README.md");

/// What `pgbox` prints for these arguments.
fn printed(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_pgbox")).args(arguments).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// The names in the list of commands that a help text has.
fn subcommands(help: &str) -> Vec<&str> {
    let list = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let entries = list.take_while(|line| !line.is_empty());
    // A description that goes on in a second line stands further to the right.
    let names = entries.filter_map(|line| line.strip_prefix("  ").filter(|entry| !entry.starts_with(' ')));
    names.filter_map(|entry| entry.split_whitespace().next()).filter(|name| *name != "help").collect()
}

#[test]
fn the_readme_has_the_table_of_settings() {
    assert!(README.contains(&contract_table()), "README.md needs this table:\n{}", contract_table());
}

#[test]
fn the_readme_names_every_command_and_every_subcommand() {
    for applet in printed(&["--list"]).lines() {
        assert!(README.contains(&format!("### {applet}\n")), "{applet}");
        let section = README.split(&format!("### {applet}\n")).nth(1).unwrap();
        let section = section.split("\n## ").next().unwrap();
        for subcommand in subcommands(&printed(&[applet, "--help"])) {
            assert!(section.contains(&format!("**{subcommand}**")), "{applet} {subcommand}");
        }
    }
    for name in subcommands(&printed(&["--help"])) {
        assert!(README.contains(name), "{name}");
    }
}

#[test]
fn the_readme_names_every_script_and_only_files_that_are_there() {
    let root = env!("CARGO_MANIFEST_DIR");
    for entry in fs::read_dir(format!("{root}/scripts")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        // lib.sh is sourced by the others, and never run.
        assert!(name == "lib.sh" || README.contains(&format!("scripts/{name}")), "{name}");
    }
    for file in ["LICENSE-MIT", "LICENSE-APACHE", "CHANGELOG.md", "devcontainer/devcontainer.json"] {
        assert!(README.contains(file) && fs::exists(format!("{root}/{file}")).unwrap(), "{file}");
    }
}

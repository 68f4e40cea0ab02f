//! The house rules that no compiler checks: who imports whom, and how long a file may be.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use walkdir::WalkDir;

/// What each module may import of the crate, as `lib.rs` has it.
fn allowed_imports() -> BTreeMap<&'static str, Vec<&'static str>> {
    let lower = ["error", "pg", "plan", "progress", "sys"];
    let with = |more: &[&'static str]| [lower.as_slice(), more].concat();
    BTreeMap::from([
        ("pg", vec![]),
        ("progress", vec![]),
        ("sys", vec![]),
        ("format", vec![]),
        ("error", vec!["repository", "sys"]),
        ("plan", vec!["format", "pg"]),
        ("settings", vec!["error", "plan", "sys"]),
        ("cluster", with(&["format"])),
        ("repository", with(&["format"])),
        ("execute", with(&["cluster", "format", "repository", "settings"])),
        ("health", with(&["cluster", "execute", "format", "repository", "settings"])),
        ("services", with(&["cluster", "execute", "format", "health", "repository", "settings"])),
        ("embed", with(&["cluster", "execute", "repository", "settings"])),
        ("ui", vec!["error", "format", "pg", "plan", "progress"]),
    ])
}

fn sources(directory: &str) -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(directory);
    let files = WalkDir::new(root).into_iter().map(Result::unwrap).map(walkdir::DirEntry::into_path);
    files.filter(|path| path.extension().is_some_and(|extension| extension == "rs")).collect()
}

/// The module below `src` that a file belongs to.
fn module_of(path: &Path) -> String {
    let below = path.strip_prefix(Path::new(env!("CARGO_MANIFEST_DIR")).join("src")).unwrap();
    let first = below.components().next().unwrap().as_os_str().to_string_lossy().into_owned();
    first.trim_end_matches(".rs").to_owned()
}

/// The modules of the crate that a text names by `crate::`.
fn imports(text: &str) -> Vec<String> {
    let without_comments: String = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
    let after = without_comments.split("crate::").skip(1);
    let name =
        |rest: &str| rest.chars().take_while(|&letter| letter.is_alphanumeric() || letter == '_').collect();
    after.map(name).filter(|name: &String| !name.is_empty()).collect()
}

#[test]
fn every_module_imports_only_what_the_rule_allows() {
    let allowed = allowed_imports();
    let mut broken = Vec::new();
    for path in sources("src") {
        let module = module_of(&path);
        let Some(allowed) = allowed.get(module.as_str()) else {
            assert!(
                ["lib", "main", "commands"].contains(&module.as_str()),
                "the rule does not know '{module}'"
            );
            continue;
        };
        for import in imports(&std::fs::read_to_string(&path).unwrap()) {
            if import != module && !allowed.contains(&import.as_str()) {
                broken.push(format!("{} imports {import}", path.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

/// `sys` as a whole may call what changes owners and modes; within it, one module does.
#[test]
fn owners_and_modes_are_changed_in_one_module_only() {
    const CHANGES: [&str; 5] = ["chown(", "chownat(", "chmod(", "chmodat(", "set_permissions("];
    let is_elsewhere = |path: &PathBuf| !path.to_string_lossy().contains("src/sys/giving");
    let mut elsewhere = Vec::new();
    for path in sources("src").into_iter().filter(is_elsewhere) {
        let text = std::fs::read_to_string(&path).unwrap();
        let code = text.split("#[cfg(test)]").next().unwrap();
        let lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
        let found = lines.filter(|line| CHANGES.iter().any(|change| line.contains(change)));
        elsewhere.extend(found.map(|line| format!("{}: {line}", path.display())));
    }
    assert!(elsewhere.is_empty(), "{elsewhere:#?}");
}

#[test]
fn no_file_is_longer_than_500_lines() {
    let long: Vec<String> = ["src", "tests"]
        .iter()
        .flat_map(|directory| sources(directory))
        .map(|path| (std::fs::read_to_string(&path).unwrap().lines().count(), path))
        .filter(|(count, _)| *count > 500)
        .map(|(count, path)| format!("{} has {count} lines", path.display()))
        .collect();
    assert!(long.is_empty(), "{long:#?}");
}

#[test]
fn only_sys_holds_directory_handles() {
    let outside = sources("src").into_iter().filter(|path| module_of(path) != "sys");
    let holders: Vec<PathBuf> =
        outside.filter(|path| std::fs::read_to_string(path).unwrap().contains("cap_std")).collect();
    assert!(holders.is_empty(), "{holders:#?}");
}

/// Where sessions with a server are made, and where client programs are run.
const SESSIONS: &str = "src/cluster/session";
/// Scripts of users connect as docker-library has it.
const SCRIPTS: &str = "src/execute/init_scripts.rs";

#[test]
fn sessions_and_client_programs_are_made_in_one_place() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let programs =
        ["clusterdb", "pg_amcheck", "pg_dump", "pg_dumpall", "pg_restore", "psql", "reindexdb", "vacuumdb"];
    let marks: Vec<String> = ["NoTls".to_owned(), "Config::new()".to_owned(), "PGOPTIONS".to_owned()]
        .into_iter()
        .chain(programs.map(|program| format!("installation.program(\"{program}\")")))
        .chain(programs.map(|program| format!("Tool::new(\"{program}\")")))
        .collect();
    let outside = sources("src").into_iter().filter(|path| {
        !path.starts_with(root.join(SESSIONS))
            && *path != root.join(format!("{SESSIONS}.rs"))
            && *path != root.join(SCRIPTS)
    });
    let makes_one = |path: &PathBuf| {
        let text = std::fs::read_to_string(path).unwrap();
        let code = |line: &&str| !line.trim_start().starts_with("//");
        text.lines().filter(code).any(|line| marks.iter().any(|mark| line.contains(mark)))
    };
    let makers: Vec<PathBuf> = outside.filter(makes_one).collect();
    assert!(makers.is_empty(), "{makers:#?}");
}

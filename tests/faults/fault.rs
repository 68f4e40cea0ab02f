//! One fault, and a case: the fault made on a cluster, pgbox run, and the outcome compared with what is expected.

use super::judge::{self, Server};
use super::template::{Left, Template, template};
use crate::support::sandbox::{Sandbox, printed, run};
use crate::support::versions::USUAL;
use std::path::Path;
use std::process::Command;

/// What must become of a cluster.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Expect {
    /// It serves, and everything is in it.
    Lossless,
    /// It serves; nothing is missing but what belongs to these, and each that is missing is named.
    Loses(&'static [&'static str]),
    /// It serves; how much is lost depends on chance, and this is said of it. What nobody wrote to is whole.
    Salvages(&'static str),
    /// It serves, with nothing in it: nothing was left, and this is said.
    BeginsAnew(&'static str),
    /// It is left as it was, for a person to see to.
    Refused,
}

/// What is expected, by how the cluster was left.
#[derive(Clone, Copy)]
struct Outcomes {
    clean: Expect,
    killed: Expect,
}

/// Something that may happen to the files of a cluster.
#[derive(Clone, Copy)]
pub(crate) struct Fault {
    /// Shell commands, run in the data directory with what `damage.sh` has.
    pub(crate) damage: &'static str,
    /// The finding of a deep check, for what no start need notice.
    pub(crate) code: Option<&'static str>,
    alone: Outcomes,
    with_backup: Outcomes,
}

/// A fault that is put right without loss, with a backup and without one.
pub(crate) const fn fault(damage: &'static str) -> Fault {
    let lossless = Outcomes { clean: Expect::Lossless, killed: Expect::Lossless };
    Fault { damage, code: None, alone: lossless, with_backup: lossless }
}

impl Fault {
    /// What is expected without a backup.
    pub(crate) const fn alone(self, expect: Expect) -> Self {
        self.alone_each(expect, expect)
    }

    /// The same, first of a cluster that was stopped cleanly, then of a killed one.
    pub(crate) const fn alone_each(mut self, clean: Expect, killed: Expect) -> Self {
        self.alone = Outcomes { clean, killed };
        self
    }

    /// What is expected with a backup and all the WAL since.
    pub(crate) const fn with_backup(self, expect: Expect) -> Self {
        self.with_backup_each(expect, expect)
    }

    /// The same, first of a cluster that was stopped cleanly, then of a killed one.
    pub(crate) const fn with_backup_each(mut self, clean: Expect, killed: Expect) -> Self {
        self.with_backup = Outcomes { clean, killed };
        self
    }

    /// A fault that the server serves with, and that a deep check finds.
    pub(crate) const fn found_by_deep_check(mut self, code: &'static str) -> Self {
        self.code = Some(code);
        self
    }

    /// What is expected of a case.
    pub(crate) fn expected(&self, left: Left, backup: Backup) -> Expect {
        let outcomes = if backup == Backup::None { self.alone } else { self.with_backup };
        if left == Left::Clean { outcomes.clean } else { outcomes.killed }
    }
}

/// Whether there is one.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Backup {
    None,
    Older,
}

/// Makes a fault on the usual version and judges what becomes of it.
pub(crate) fn case(fault: &Fault, left: Left, backup: Backup) {
    case_on(USUAL, fault, left, backup);
}

/// Makes a fault on a cluster of a major version and judges what becomes of it.
pub(crate) fn case_on(major: u32, fault: &Fault, left: Left, backup: Backup) {
    let Some(template) = template(major, left) else { return };
    let sandbox = template.copy();
    if backup == Backup::None {
        sandbox.forget_backups();
    }
    make(fault.damage, &sandbox.data());

    let how = match (fault.code, left) {
        (None, _) => Found::AtTheStart,
        (Some(code), Left::Clean) => Found::ByDeepCheck(code),
        // Replay may have healed it, and what is checked deeply before it may only look like damage.
        (Some(_), Left::Killed) => Found::ByDeepCheckAfterRecovery,
    };

    judge_recovery(&sandbox, &template, how, fault.expected(left, backup));
}

/// Makes a fault of those that only a deep check finds, on a cluster that was stopped cleanly and is not sealed, as a
/// server leaves it that somebody else stopped.
pub(crate) fn case_without_seal(fault: &Fault) {
    let Some(template) = template(USUAL, Left::Clean) else { return };
    let sandbox = template.copy();
    sandbox.forget_backups();
    make(&format!("rm -f .pgbox/seal*; {}", fault.damage), &sandbox.data());

    let expect = fault.expected(Left::Clean, Backup::None);
    judge_recovery(&sandbox, &template, Found::ByDeepCheck(fault.code.unwrap()), expect);
}

/// When a fault is found.
#[derive(Clone, Copy)]
pub(crate) enum Found {
    /// By the inspection before a start.
    AtTheStart,
    /// By a deep check, under this code; the seal may know of it, too.
    ByDeepCheck(&'static str),
    /// By a deep check after the server has replayed its WAL.
    ByDeepCheckAfterRecovery,
}

/// Runs shell commands that damage a data directory.
pub(crate) fn make(damage: &str, data: &Path) {
    let preamble = include_str!("damage.sh");
    run(Command::new("sh").args(["-euc", &format!("{preamble}\n{damage}")]).current_dir(data));
}

/// Lets pgbox have the damaged cluster, and compares the outcome with what is expected.
pub(crate) fn judge_recovery(sandbox: &Sandbox, template: &Template, found: Found, expect: Expect) {
    if expect == Expect::Refused {
        let before = sandbox.listing();
        let told = sandbox.expect_status(&["init-postgresql", "--no-backup"], 6);
        assert_eq!(sandbox.listing(), before, "it was refused, and yet changed: {told}");
        return;
    }
    let mut told = find_and_repair(sandbox, found);
    told += &sandbox.succeed(&["init-postgresql", "--no-backup"]);
    let server = Server::of(sandbox);
    compare(&server, template, expect, &told);
    match template.major {
        13 => server.assert_indexes_are_sound(),
        14..=USUAL => server.assert_amcheck_is_silent(),
        // The programs of the usual version do not know them.
        _ => {}
    }
    sandbox.succeed(&["maintenance", "stop"]);
    let checked = sandbox.output(&["maintenance", "check"]);
    assert!(checked.status.success(), "it was put right, and yet: {}\n{told}", printed(&checked));
}

/// Looks deeply for what a start need not notice, and has it repaired; what was told of it.
fn find_and_repair(sandbox: &Sandbox, found: Found) -> String {
    let check = ["maintenance", "check", "--deep", "--json"];
    match found {
        Found::AtTheStart => String::new(),
        Found::ByDeepCheck(code) => {
            let report = sandbox.expect_status(&check, 1);
            let is_known = report.contains(&format!("\"{code}\"")) || report.contains("\"seal-");
            assert!(is_known, "no finding '{code}' in: {report}");
            sandbox.succeed(&["maintenance", "repair", "--yes"])
        }
        Found::ByDeepCheckAfterRecovery => {
            let told = sandbox.succeed(&["init-postgresql", "--no-backup"]);
            sandbox.succeed(&["maintenance", "stop"]);
            if sandbox.output(&check).status.success() {
                return told;
            }
            told + &sandbox.succeed(&["maintenance", "repair", "--yes"])
        }
    }
}

fn compare(server: &Server, template: &Template, expect: Expect, told: &str) {
    let differing = judge::differences(&template.digest, &server.digest());
    match expect {
        Expect::Lossless => {
            assert!(differing.is_empty(), "not as it was: {differing:#?}\n{told}");
            if !template.dump.is_empty() {
                let difference = judge::first_difference(&template.dump, &server.dump());
                assert_eq!(difference, None, "pg_dump prints something else\n{told}");
            }
        }
        Expect::Loses(names) => {
            let unexpected: Vec<_> =
                // What is salvaged is loaded anew, and with it what is worked out from other tables.
                differing.iter().filter(|line| !names.iter().chain(&[" derived "]).any(|name| line.contains(name))).collect();
            assert!(unexpected.is_empty(), "lost more than {names:?}: {unexpected:#?}\n{told}");
            let is_lost = |name: &&&str| differing.iter().any(|line| line.contains(**name));
            let unsaid: Vec<_> = names.iter().filter(is_lost).filter(|name| !told.contains(**name)).collect();
            assert!(unsaid.is_empty(), "lost without a word: {unsaid:?}\n{told}");
        }
        Expect::Salvages(words) => {
            let at_rest = ["dbuser table documents", "dbuser relation documents", "second table notes"];
            let lost: Vec<_> = differing.iter().filter(|line| at_rest.contains(&line.as_str())).collect();
            assert!(lost.is_empty(), "not salvaged: {lost:?}\n{told}");
            assert!(told.contains(words), "not told: {words:?}\n{told}");
        }
        Expect::BeginsAnew(words) => assert!(told.contains(words), "not told: {words:?}\n{told}"),
        Expect::Refused => unreachable!("what is refused does not serve"),
    }
}

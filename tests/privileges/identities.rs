//! Commands of root that need both users. A thread of another user in a process of root lets that user's programs write
//! into the memory of root.

use crate::embedded::Base;
use crate::support::sandbox::{Sandbox, has_postgresql, printed};
use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::{Child, Command, Stdio};

/// What was seen of a process, over the whole of its life.
#[derive(Debug, Default)]
struct Seen {
    /// The users of its threads, those of one moment together.
    users: BTreeSet<BTreeSet<u32>>,
    most_threads: usize,
    /// Whether it ever was another user than root while that user's programs could look into it.
    is_open: bool,
}

/// The user of a thread: real, effective, saved and of the file system, which must all be one.
fn user_of(status: &str) -> BTreeSet<u32> {
    let line = status.lines().find(|line| line.starts_with("Uid:"));
    line.into_iter().flat_map(str::split_whitespace).filter_map(|word| word.parse().ok()).collect()
}

fn tasks(pid: u32) -> Vec<u32> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect()
}

/// A process and those that it started that are pgbox, too.
fn own_processes(pid: u32) -> Vec<u32> {
    let children = |task: u32| fs::read_to_string(format!("/proc/{pid}/task/{task}/children"));
    let children: Vec<u32> = tasks(pid)
        .into_iter()
        .filter_map(|task| children(task).ok())
        .flat_map(|text| text.split_whitespace().filter_map(|child| child.parse().ok()).collect::<Vec<_>>())
        .collect();
    let own = children.into_iter().filter(|child| is_pgbox(*child)).flat_map(own_processes);
    std::iter::once(pid).chain(own).collect()
}

fn is_pgbox(pid: u32) -> bool {
    fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|program| program.ends_with("pgbox"))
}

fn look(pid: u32, seen: &mut Seen) {
    let statuses: Vec<String> = tasks(pid)
        .into_iter()
        .filter_map(|task| fs::read_to_string(format!("/proc/{pid}/task/{task}/status")).ok())
        .collect();
    let users: BTreeSet<u32> = statuses.iter().flat_map(|status| user_of(status)).collect();
    // Files of a process that cannot be dumped, and so not be traced, belong to root (proc(5)).
    let owner = fs::metadata(format!("/proc/{pid}/environ")).map_or(0, |facts| facts.uid());
    // A child that has become another program meanwhile is that user's own.
    seen.is_open |= !users.contains(&0) && owner != 0 && is_pgbox(pid);
    seen.most_threads = seen.most_threads.max(statuses.len());
    seen.users.insert(users);
}

/// Looks at a command and its own processes again and again, until it ends.
fn watch(child: &mut Child) -> HashMap<u32, Seen> {
    let mut all: HashMap<u32, Seen> = HashMap::new();
    while child.try_wait().unwrap().is_none() {
        for pid in own_processes(child.id()) {
            look(pid, all.entry(pid).or_default());
        }
    }
    all
}

/// Runs a command, and judges the users of its threads at every moment.
#[track_caller]
fn assert_no_process_has_two_users(command: &mut Command) {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let seen = watch(&mut child);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", printed(&output));
    let is_root = |users: &BTreeSet<u32>| users.contains(&0);
    for process in seen.values() {
        assert!(process.users.iter().all(|users| users.len() <= 1), "threads of two users: {seen:#?}");
        assert!(!process.is_open, "another user's programs could look into it: {seen:#?}");
    }
    // Else nothing of this was tried: one process is root to the end, another one works as the server's user.
    assert!(seen.values().any(|process| process.users.iter().all(is_root)), "{seen:#?}");
    let works = |process: &Seen| process.users.iter().any(|users| !users.is_empty() && !is_root(users));
    assert!(seen.values().any(|process| works(process) && process.most_threads > 1), "{seen:#?}");
}

#[test]
fn no_process_of_an_export_or_of_a_restore_elsewhere_has_threads_of_two_users() {
    if !has_postgresql() {
        return;
    }
    let sandbox = Sandbox::with_backup();
    let path = |name: &str| sandbox.path().join(name).display().to_string();

    // With the compression that has a thread for each processor.
    let export = ["backup-postgresql", "export", "latest", &path("bundle.tar.gz")];
    assert_no_process_has_two_users(&mut sandbox.command(&export));
    assert_eq!(fs::metadata(path("bundle.tar.gz")).unwrap().uid(), 0);

    let restore = ["backup-postgresql", "restore", "latest", "--into", &path("elsewhere")];
    assert_no_process_has_two_users(&mut sandbox.command(&restore));
    assert_ne!(fs::metadata(path("elsewhere")).unwrap().uid(), 0);
}

#[test]
fn a_program_that_is_root_and_embeds_a_server_has_no_thread_of_another_user() {
    if !has_postgresql() {
        return;
    }
    let base = Base::new();

    assert_no_process_has_two_users(&mut base.command());

    // Root's program does not have what it needs for that. It changes nothing then, and says so.
    let before = fs::metadata(base.path().join("data/global/pg_control")).unwrap().mtime_nsec();
    let output = base.command().env("PATH", "/nowhere").output().unwrap();
    assert!(!output.status.success());
    let text = printed(&output);
    assert!(text.contains("the program 'pgbox'") && text.contains("not found"), "{text}");
    assert_eq!(fs::metadata(base.path().join("data/global/pg_control")).unwrap().mtime_nsec(), before);
}

//! Asking the kernel whether anybody, in whatever container, has a file open for writing.
//!
//! `fcntl(F_SETLEASE, F_RDLCK)` is refused with `EAGAIN` while any process of this kernel has the file open for writing
//! (Linux, locks.c, `check_conflicting_open()`). A process number says nothing across PID namespaces, and PostgreSQL's
//! own interlock, a shared memory segment, nothing across IPC namespaces; this does. A read lease is asked for and not a
//! write lease: those who only read a file, such as a backup or another look like this one, are in nobody's way then.
//! The lease is given back at once, so that a server that starts meanwhile does not wait for it.
//!
//! No crate offers leases without `unsafe`, which this one forbids itself. Perl does, and is a part of every Debian
//! (`perl-base` is essential). Where it is missing the answer is that nobody knows.

use super::process::find_program;
use super::secrets::PASSWORD_VARIABLES;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Prints a line for each file: its number, and `free`, `held` or `open` with an errno. Only the owner of a file and who
/// has `CAP_LEASE` may have a lease, so root asks as the owner.
const SCRIPT: &str = r#"use Fcntl;
for my $n (0..$#ARGV) {
    if (!sysopen(my $file, $ARGV[$n], O_RDONLY|O_NONBLOCK|O_NOFOLLOW)) { print "$n open ", $!+0, "\n"; next }
    else {
        my $owner = (stat $file)[4];
        $> = $owner if $< == 0;
        my $got = fcntl($file, 1024, F_RDLCK);
        my $errno = $!+0;
        $> = 0 if $< == 0;
        print "$n ", $got ? "free 0" : "held $errno", "\n";
    }
}"#;
/// Variables that would have Perl run something else first.
const VARIABLES: [&str; 4] = ["PERL5OPT", "PERL5LIB", "PERLLIB", "PERL5DB"];
/// How often a file that is open is asked for again, and how long the pauses are: the last processes of a server that
/// died end within moments.
const TRIES: u32 = 10;
const PAUSE: Duration = Duration::from_millis(100);

const EAGAIN: i32 = 11;
const ENOENT: i32 = 2;

/// Who has a file open for writing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Writer {
    /// Nobody has any of the files open for writing.
    Nobody,
    /// Somebody has this file, below the directory, open for writing.
    Somebody(PathBuf),
    /// The kernel could not be asked, or does not know; why.
    Unknown(String),
}

/// Looks for a process that has one of `files`, below `directory`, open for writing. Files that are not there are
/// passed over.
///
/// `control` is a file that nobody ever writes: where it is refused too, the file system grants no leases at all (NFS,
/// FUSE), and the answer is [`Writer::Unknown`].
pub fn find_writer(directory: &Path, control: &Path, files: &[PathBuf]) -> Writer {
    let Some(perl) = find_program("perl") else { return Writer::Unknown("there is no perl".to_owned()) };
    let mut answer = ask(&perl, directory, control, files);
    for _ in 1..TRIES {
        if !matches!(answer, Writer::Somebody(_)) {
            break;
        }
        std::thread::sleep(PAUSE);
        answer = ask(&perl, directory, control, files);
    }
    answer
}

fn ask(perl: &Path, directory: &Path, control: &Path, files: &[PathBuf]) -> Writer {
    let paths = std::iter::once(control).chain(files.iter().map(PathBuf::as_path));
    let mut command = Command::new(perl);
    command.arg("-e").arg(SCRIPT).arg("--").args(paths.map(|path| directory.join(path))).current_dir("/");
    for variable in VARIABLES.iter().chain(&PASSWORD_VARIABLES) {
        command.env_remove(variable);
    }
    let output = match command.output() {
        Ok(output) if output.status.success() => output,
        Ok(output) => return Writer::Unknown(format!("perl ended with {}", output.status)),
        Err(error) => return Writer::Unknown(format!("could not run perl: {error}")),
    };
    let answers: Vec<Answer> =
        String::from_utf8_lossy(&output.stdout).lines().filter_map(Answer::parse).collect();
    judge(&answers, files)
}

/// What the kernel said of one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Answer {
    /// Its number: 0 is the control.
    number: usize,
    is_granted: bool,
    errno: i32,
}

impl Answer {
    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split(' ');
        let number = words.next()?.parse().ok()?;
        let is_granted = words.next()? == "free";
        Some(Self { number, is_granted, errno: words.next()?.parse().ok()? })
    }
}

fn judge(answers: &[Answer], files: &[PathBuf]) -> Writer {
    let describe = |errno: i32| io::Error::from_raw_os_error(errno).to_string();
    match answers.iter().find(|answer| answer.number == 0) {
        Some(control) if control.is_granted => {}
        Some(control) => {
            return Writer::Unknown(format!("no lease is to be had here: {}", describe(control.errno)));
        }
        None => return Writer::Unknown("perl did not answer".to_owned()),
    }
    let refused = |answer: &&Answer| answer.number > 0 && !answer.is_granted && answer.errno != ENOENT;
    let path = |answer: &Answer| answer.number.checked_sub(1).and_then(|number| files.get(number)).cloned();
    if let Some(open) = answers.iter().filter(refused).find(|answer| answer.errno == EAGAIN).and_then(path) {
        return Writer::Somebody(open);
    }
    let granted = answers.iter().filter(|answer| answer.number > 0 && answer.is_granted).count();
    match answers.iter().find(refused) {
        Some(other) => Writer::Unknown(format!("no lease is to be had here: {}", describe(other.errno))),
        None if granted == 0 => Writer::Unknown("there is no file to ask for".to_owned()),
        None => Writer::Nobody,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;
    use std::fs::{File, OpenOptions};

    fn look(directory: &Path) -> Writer {
        find_writer(directory, Path::new("control"), &["absent".into(), "file".into()])
    }

    fn directory() -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        for name in ["control", "file"] {
            std::fs::write(directory.path().join(name), "text").unwrap();
        }
        directory
    }

    #[test]
    fn a_file_that_is_open_for_writing_is_found_and_one_that_is_read_is_not() {
        let directory = directory();
        assert_eq!(look(directory.path()), Writer::Nobody);

        let _reader = File::open(directory.path().join("file")).unwrap();
        assert_eq!(look(directory.path()), Writer::Nobody);

        let writer = OpenOptions::new().write(true).open(directory.path().join("file")).unwrap();
        assert_eq!(look(directory.path()), Writer::Somebody("file".into()));

        drop(writer);
        assert_eq!(look(directory.path()), Writer::Nobody);
    }

    #[test]
    fn where_the_control_is_refused_too_nothing_is_known() {
        let directory = directory();
        let _writer = OpenOptions::new().write(true).open(directory.path().join("control")).unwrap();
        assert!(matches!(look(directory.path()), Writer::Unknown(_)));
    }

    #[rstest]
    #[case::nothing_was_said("", "perl did not answer")]
    #[case::only_the_control_is_there("0 free 0\n1 open 2", "there is no file to ask for")]
    #[case::not_the_owner(
        "0 free 0\n1 free 0\n2 held 13",
        "no lease is to be had here: Permission denied (os error 13)"
    )]
    fn an_answer_that_is_not_whole_is_no_answer(#[case] lines: &str, #[case] reason: &str) {
        let answers: Vec<Answer> = lines.lines().filter_map(Answer::parse).collect();
        assert_eq!(judge(&answers, &["a".into(), "b".into()]), Writer::Unknown(reason.to_owned()));
    }
}

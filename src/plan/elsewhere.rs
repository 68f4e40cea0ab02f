//! Whether a server that cannot be seen from here may be using a data directory. Pure.
//!
//! A server of pgbox's holds the cluster's lock for as long as any process of it lives. Any other server in another
//! container shows in three ways only: it has files open for writing, it answers at its socket, and it left a
//! `postmaster.pid`, whose number means nothing here. PostgreSQL takes such a number for a dead server's (miscinit.c,
//! `CreateLockFile()`: `ESRCH` and `EPERM` both count as stale), and two postmasters then write the same files.

use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long the files of a server that lives may rest before its pid file counts as a dead server's: two checkpoints of
/// the default `checkpoint_timeout`.
const REST: Duration = Duration::from_mins(10);

/// Everything that hints at such a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signs {
    /// Whether somebody has a file of the cluster open for writing.
    pub writer: Writer,
    /// Whether a server of this configuration always has a file open.
    pub keeps_files_open: bool,
    /// The server that `postmaster.pid` names.
    pub named: Named,
    /// Where something answers, of the addresses in `postmaster.pid`.
    pub answers_at: Option<String>,
    /// How long ago the cluster's files changed last; `None` where that is not known, or the clock went back.
    pub rest: Option<Duration>,
}

/// What the kernel says of writers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Writer {
    /// Nobody has a file of the cluster open for writing.
    Nobody,
    /// Somebody has this file open for writing.
    Somebody(PathBuf),
    /// It could not be asked; why.
    Unknown(String),
}

/// The server that `postmaster.pid` names, which is no process that can be seen from here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Named {
    /// None, or only a single-user backend: they end with the command that runs them.
    Nothing,
    /// One that pgbox started. It is dead, since nobody holds its lock.
    Ours,
    /// One that pgbox did not start.
    Other {
        /// Its number, in its own PID namespace.
        pid: i32,
    },
}

/// Returns why a server that cannot be seen from here counts as using the cluster; `None` where there is none.
pub fn server_elsewhere(signs: &Signs) -> Option<String> {
    let unknown = match &signs.writer {
        Writer::Somebody(path) => return Some(open_file(path)),
        Writer::Nobody if signs.keeps_files_open => return None,
        Writer::Nobody => "it may keep none of them open",
        Writer::Unknown(reason) => reason.as_str(),
    };
    let Named::Other { pid } = signs.named else { return None };
    if let Some(address) = &signs.answers_at {
        return Some(format!("process {pid} of postmaster.pid, which answers at '{address}'"));
    }
    let changed = match signs.rest {
        Some(rest) if rest > REST => return None,
        Some(rest) => format!("the files changed {} s ago", rest.as_secs()),
        None => "when the files changed last is not known".to_owned(),
    };
    Some(format!(
        "process {pid} of postmaster.pid, which may run in another container: {changed}, and the kernel cannot say who uses \
         them ({unknown}). If no server uses them anywhere, remove postmaster.pid"
    ))
}

/// Says that a file is open for writing.
pub fn open_file(path: &Path) -> String {
    format!(
        "a server that cannot be seen from here, perhaps in another container: '{}' is open for writing",
        path.display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    const OTHER: Named = Named::Other { pid: 1 };

    fn somebody() -> Writer {
        Writer::Somebody("global/1262".into())
    }

    fn unknown() -> Writer {
        Writer::Unknown("there is no perl".to_owned())
    }

    fn signs(writer: Writer, named: Named, rest_seconds: u64) -> Signs {
        let rest = Some(Duration::from_secs(rest_seconds));
        Signs { writer, keeps_files_open: true, named, answers_at: None, rest }
    }

    #[rstest]
    #[case::a_writer_counts_without_a_pid_file(signs(somebody(), Named::Nothing, 9000))]
    #[case::a_writer_counts_after_a_server_of_ours(signs(somebody(), Named::Ours, 9000))]
    #[case::a_writer_counts_after_any_rest(signs(somebody(), OTHER, 9000))]
    #[case::a_pid_file_counts_where_nothing_else_is_known(signs(unknown(), OTHER, 5))]
    #[case::a_pid_file_counts_for_two_checkpoints(signs(unknown(), OTHER, 600))]
    #[case::a_server_that_answers_counts_after_any_rest(
        Signs { answers_at: Some("/tmp/.s.PGSQL.5432".to_owned()), ..signs(unknown(), OTHER, 9000) }
    )]
    #[case::a_server_may_have_no_file_open(Signs { keeps_files_open: false, ..signs(Writer::Nobody, OTHER, 5) })]
    #[case::a_clock_that_went_back_is_no_rest(Signs { rest: None, ..signs(unknown(), OTHER, 0) })]
    fn it_is_in_use(#[case] signs: Signs) {
        assert!(server_elsewhere(&signs).is_some());
    }

    #[rstest]
    #[case::no_writer_settles_it(signs(Writer::Nobody, OTHER, 0))]
    #[case::no_writer_settles_it_whoever_answers(
        Signs { answers_at: Some("/tmp/.s.PGSQL.5432".to_owned()), ..signs(Writer::Nobody, OTHER, 0) }
    )]
    #[case::a_dead_server_of_ours(signs(unknown(), Named::Ours, 0))]
    #[case::no_pid_file(signs(unknown(), Named::Nothing, 0))]
    #[case::a_long_rest(signs(unknown(), OTHER, 601))]
    fn it_is_free(#[case] signs: Signs) {
        assert_eq!(server_elsewhere(&signs), None);
    }
}

//! What an error of the server says about its data, and what about the session that got it. Pure.
//!
//! Only the SQLSTATE and the name of the source file that raised the error are asked: the text is translated, and says
//! what an extension wants it to say. PostgreSQL's own list of SQLSTATEs is errcodes.txt; an `elog()` without one is
//! `XX000` (elog.c, `errstart()`), whoever calls it, so that the source file has to tell.

/// An error of the server, as the protocol has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerAnswer<'a> {
    /// Its SQLSTATE.
    pub code: &'a str,
    /// The source file that raised it, without directories, such as `md.c`.
    pub source_file: Option<&'a str>,
}

/// What an error is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AnswerMeaning {
    /// The database does not exist, or is not open to connections: another one may be.
    NoDatabase,
    /// The server did not accept who asked, or what was asked for.
    Refusal,
    /// The machine or the installation lacks something: a library, a locale, memory, room on a disk.
    Environment,
    /// A time limit or a person ended what was going on.
    Cut,
    /// Something else, such as what a trigger or a hook of an extension raised.
    Other,
    /// A value was read and could not be written out as text.
    Value,
    /// The server met what it never expects to meet, in a place that does not tell where it came from.
    Internal,
    /// There is no free connection.
    Full,
    /// The server is on its way up or down, or begins again after a crash: a moment later its answer is another one.
    Passing,
    /// The data of the cluster are damaged, or a file of them is gone.
    Damage,
}

impl AnswerMeaning {
    /// Whether such an error, raised while rows are read, says that the rows do not read.
    ///
    /// What was ended, or lacked something to run, says nothing about them.
    pub fn is_about_rows(self) -> bool {
        matches!(self, Self::Damage | Self::Internal | Self::Value)
    }
}

/// Source files that load an extension's library or read its control file (dfmgr.c, extension.c).
const LOADING: [&str; 2] = ["dfmgr.c", "extension.c"];

/// Source files that ask the C library or ICU for a locale; postinit.c does when a session begins
/// (`CheckMyDatabase()`).
const LOCALES: [&str; 5] =
    ["pg_locale.c", "pg_locale_builtin.c", "pg_locale_icu.c", "pg_locale_libc.c", "postinit.c"];

/// Source files that read what is on disk: storage, access methods, and the caches of the catalogs.
const STORAGE: [&str; 27] = [
    "bufmgr.c",
    "bufpage.c",
    "catcache.c",
    "clog.c",
    "detoast.c",
    "genam.c",
    "heapam.c",
    "heapam_handler.c",
    "heapam_visibility.c",
    "heaptuple.c",
    "indexam.c",
    "lsyscache.c",
    "md.c",
    "miscinit.c",
    "multixact.c",
    "nbtpage.c",
    "nbtsearch.c",
    "nbtutils.c",
    "relation.c",
    "relcache.c",
    "relmapper.c",
    "slru.c",
    "smgr.c",
    "subtrans.c",
    "syscache.c",
    "toast_internals.c",
    "transam.c",
];

/// Source files whose errors keep a server from starting, and are about the machine or its settings. Those of shared
/// memory and semaphores are built under names of their own (configure, `SHMEM_IMPLEMENTATION`).
const STARTING: [&str; 16] = [
    "be-secure-openssl.c",
    "be-secure.c",
    "dsm_impl.c",
    "guc-file.c",
    "guc-file.l",
    "guc.c",
    "hba.c",
    "ipci.c",
    "pg_sema.c",
    "pg_shmem.c",
    "posix_sema.c",
    "postmaster.c",
    "pqcomm.c",
    "syslogger.c",
    "sysv_sema.c",
    "sysv_shmem.c",
];

impl<'a> ServerAnswer<'a> {
    /// Returns the last error that a server ended with, from its log; `None` where it was ended without one, such as by
    /// the kernel.
    ///
    /// The server must have been started with `log_error_verbosity = verbose` and `lc_messages = C`: then a line has the
    /// SQLSTATE, and one of the next has where it was raised (elog.c, `send_message_to_server_log()`).
    pub fn last_in_log(lines: &'a [String]) -> Option<Self> {
        let code = |line: &'a String| {
            let (_, rest) = ["FATAL:  ", "PANIC:  "].iter().find_map(|level| line.split_once(level))?;
            rest.split(':').next().filter(|code| code.len() == 5)
        };
        let (position, code) =
            lines.iter().enumerate().rev().find_map(|(position, line)| Some((position, code(line)?)))?;
        let location = lines.iter().skip(position).find_map(|line| line.split_once("LOCATION:  "));
        let source_file = location.and_then(|(_, place)| place.rsplit(", ").next()?.split(':').next());
        Some(Self { code, source_file })
    }

    /// Whether such an error, which ended a server at its start, comes from its data, and not from the machine, the
    /// settings or the installation.
    pub fn is_about_data_at_start(self) -> bool {
        let is_about_others = self.is_from(&STARTING)
            || matches!(
                self.meaning(),
                AnswerMeaning::Environment
                    | AnswerMeaning::Cut
                    | AnswerMeaning::Passing
                    | AnswerMeaning::Refusal
                    | AnswerMeaning::Full
            );
        !is_about_others
    }
}

impl ServerAnswer<'_> {
    /// Returns what the error is about.
    pub fn meaning(self) -> AnswerMeaning {
        match self.code {
            "57P02" | "57P03" => AnswerMeaning::Passing,
            "53300" => AnswerMeaning::Full,
            // 55000 is how a database is closed, or was left half dropped (postinit.c, `CheckMyDatabase()`).
            "3D000" | "55000" | "57P04" => AnswerMeaning::NoDatabase,
            "42501" => AnswerMeaning::Refusal,
            "57014" | "57P01" | "57P05" | "25P03" | "25P04" | "55P03" => AnswerMeaning::Cut,
            "XX001" | "XX002" => AnswerMeaning::Damage,
            // `ValidatePgVersion()` says so of a database without its PG_VERSION.
            "22023" if self.is_from(&["miscinit.c"]) => AnswerMeaning::Damage,
            "58P01" => self.missing_file(),
            "XX000" => self.internal(),
            code => of_class(code.get(..2).unwrap_or_default()),
        }
    }

    /// A file that is not there: of the data, or of the installation.
    fn missing_file(self) -> AnswerMeaning {
        match () {
            () if self.is_from(&LOADING) => AnswerMeaning::Environment,
            () if self.is_from(&STORAGE) => AnswerMeaning::Damage,
            () => AnswerMeaning::Internal,
        }
    }

    fn internal(self) -> AnswerMeaning {
        match () {
            () if self.is_from(&LOADING) || self.is_from(&LOCALES) => AnswerMeaning::Environment,
            () if self.is_from(&STORAGE) => AnswerMeaning::Damage,
            () => AnswerMeaning::Internal,
        }
    }

    fn is_from(self, files: &[&str]) -> bool {
        self.source_file.is_some_and(|file| files.contains(&file))
    }
}

/// By the class of the SQLSTATE, its first two letters.
fn of_class(class: &str) -> AnswerMeaning {
    match class {
        "22" => AnswerMeaning::Value,
        "28" => AnswerMeaning::Refusal,
        // Resources, limits of the program, the system, the configuration.
        "53" | "54" | "58" | "F0" => AnswerMeaning::Environment,
        _ => AnswerMeaning::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case::starting_up("57P03", "postmaster.c", AnswerMeaning::Passing)]
    #[case::a_process_of_the_server_crashed("57P02", "postgres.c", AnswerMeaning::Passing)]
    #[case::every_connection_is_taken("53300", "proc.c", AnswerMeaning::Full)]
    #[case::what_is_left_is_reserved("53300", "postinit.c", AnswerMeaning::Full)]
    #[case::no_line_in_pg_hba_conf("28000", "auth.c", AnswerMeaning::Refusal)]
    #[case::no_such_role("28000", "miscinit.c", AnswerMeaning::Refusal)]
    #[case::a_wrong_password("28P01", "auth.c", AnswerMeaning::Refusal)]
    #[case::no_permission("42501", "aclchk.c", AnswerMeaning::Refusal)]
    #[case::no_such_database("3D000", "postinit.c", AnswerMeaning::NoDatabase)]
    #[case::a_closed_database("55000", "postinit.c", AnswerMeaning::NoDatabase)]
    #[case::a_dropped_database("57P04", "postgres.c", AnswerMeaning::NoDatabase)]
    #[case::a_library_that_is_not_installed("58P01", "dfmgr.c", AnswerMeaning::Environment)]
    #[case::a_library_of_another_version("XX000", "dfmgr.c", AnswerMeaning::Environment)]
    #[case::an_extension_that_is_not_installed("58P01", "extension.c", AnswerMeaning::Environment)]
    #[case::a_locale_of_the_database_is_gone("XX000", "postinit.c", AnswerMeaning::Environment)]
    #[case::a_collation_is_gone("XX000", "pg_locale.c", AnswerMeaning::Environment)]
    #[case::no_memory("53200", "mcxt.c", AnswerMeaning::Environment)]
    #[case::no_room("53100", "md.c", AnswerMeaning::Environment)]
    #[case::the_disk_does_not_answer("58030", "md.c", AnswerMeaning::Environment)]
    #[case::too_many_open_files("53000", "fd.c", AnswerMeaning::Environment)]
    #[case::a_statement_timeout("57014", "postgres.c", AnswerMeaning::Cut)]
    #[case::a_lock_timeout("55P03", "postgres.c", AnswerMeaning::Cut)]
    #[case::a_transaction_timeout("25P04", "postgres.c", AnswerMeaning::Cut)]
    #[case::an_idle_session("57P05", "postgres.c", AnswerMeaning::Cut)]
    #[case::ended_by_a_person("57P01", "postgres.c", AnswerMeaning::Cut)]
    #[case::raised_by_a_login_trigger("P0001", "pl_exec.c", AnswerMeaning::Other)]
    #[case::a_function_of_a_trigger_is_gone("42883", "parse_func.c", AnswerMeaning::Other)]
    #[case::raised_by_a_hook("XX000", "auth_delay.c", AnswerMeaning::Internal)]
    #[case::a_value_out_of_range("22008", "timestamp.c", AnswerMeaning::Value)]
    #[case::a_file_of_the_data_is_gone("58P01", "md.c", AnswerMeaning::Damage)]
    #[case::a_status_of_transactions_is_gone("58P01", "slru.c", AnswerMeaning::Damage)]
    #[case::a_relation_map_is_gone("58P01", "relmapper.c", AnswerMeaning::Damage)]
    #[case::a_catalog_lost_a_row("XX000", "relcache.c", AnswerMeaning::Damage)]
    #[case::a_page_is_invalid("XX001", "bufmgr.c", AnswerMeaning::Damage)]
    #[case::an_index_is_corrupted("XX002", "nbtpage.c", AnswerMeaning::Damage)]
    #[case::a_database_lost_its_version("22023", "miscinit.c", AnswerMeaning::Damage)]
    fn an_error_is_told_by_its_code_and_where_it_was_raised(
        #[case] code: &str,
        #[case] file: &str,
        #[case] expected: AnswerMeaning,
    ) {
        assert_eq!(ServerAnswer { code, source_file: Some(file) }.meaning(), expected);
    }

    #[test]
    fn only_what_the_rows_themselves_raise_is_about_them() {
        use AnswerMeaning::{
            Cut, Damage, Environment, Full, Internal, NoDatabase, Other, Passing, Refusal, Value,
        };
        assert!([Damage, Internal, Value].into_iter().all(AnswerMeaning::is_about_rows));
        let others = [Cut, Environment, Full, NoDatabase, Other, Passing, Refusal];
        assert!(!others.into_iter().any(AnswerMeaning::is_about_rows));
    }

    #[rstest]
    #[case::no_checkpoint("XX000", "xlogrecovery.c", true)]
    #[case::wal_that_ends_too_early("55000", "xlogrecovery.c", true)]
    #[case::a_page_is_invalid("XX001", "bufmgr.c", true)]
    #[case::no_shared_memory("XX000", "pg_shmem.c", false)]
    #[case::no_shared_memory_of_a_build_with_meson("XX000", "sysv_shmem.c", false)]
    #[case::no_semaphores("53100", "posix_sema.c", false)]
    #[case::a_library_is_gone("58P01", "dfmgr.c", false)]
    #[case::a_setting_is_refused("F0000", "guc-file.l", false)]
    #[case::a_full_disk("53100", "xlog.c", false)]
    #[case::a_disk_that_does_not_answer("58030", "xlog.c", false)]
    fn a_start_that_fails_is_not_always_about_the_data(
        #[case] code: &str,
        #[case] file: &str,
        #[case] expected: bool,
    ) {
        assert_eq!(ServerAnswer { code, source_file: Some(file) }.is_about_data_at_start(), expected);
    }

    #[test]
    fn the_last_error_of_a_log_is_found_with_its_place() {
        let lines = [
            "2026-11-30 06:00:00.000 UTC [7] LOG:  00000: starting PostgreSQL 15.18",
            "2026-11-30 06:00:00.000 UTC [7] LOCATION:  PostmasterMain, postmaster.c:1192",
            "2026-11-30 06:00:00.100 UTC [9] FATAL:  58P01: could not access file \"x\": No such file or directory",
            "2026-11-30 06:00:00.100 UTC [9] LOCATION:  internal_load_library, dfmgr.c:208",
            "2026-11-30 06:00:00.100 UTC [7] LOG:  00000: shutting down",
        ]
        .map(str::to_owned);

        let answer = ServerAnswer::last_in_log(&lines).unwrap();

        assert_eq!(answer, ServerAnswer { code: "58P01", source_file: Some("dfmgr.c") });
        assert_eq!(ServerAnswer::last_in_log(&lines[..2]), None);
    }

    #[test]
    fn an_unknown_code_is_nothing_in_particular() {
        for code in ["", "5", "00000", "ZZZZZ"] {
            assert_eq!(ServerAnswer { code, source_file: None }.meaning(), AnswerMeaning::Other);
        }
    }
}

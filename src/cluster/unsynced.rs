//! Whether a server may have left its files unsynced: with `fsync = off` a shutdown says "shut down" before anything has
//! reached the disk (fd.c, `pg_fsync()`), and after a crash of the machine the files need not be what the control file
//! says.

use super::own_settings::{OwnSettings, is_true};
use crate::sys::{ReadRoot, sync_everything};
use std::io;

/// How a server was started, in one line (postmaster.c, `CreateOptsFile()`).
const COMMAND_LINE: &str = "postmaster.opts";
const LIMIT_BYTES: u64 = 1 << 16;

/// Returns whether the last server of a cluster may have run without syncing: by its configuration or its command line. It
/// may, too, where other files are taken in, which are not read here.
fn may_be(root: &ReadRoot) -> bool {
    let by_configuration = match OwnSettings::read(root) {
        Ok(own) => own.takes_in_others || own.get("fsync").is_some_and(|value| !is_true(value)),
        Err(_) => true,
    };
    let command_line = root.read_text(COMMAND_LINE, LIMIT_BYTES).ok().flatten().unwrap_or_default();
    by_configuration || command_line.contains("fsync") || command_line.contains("\"-F\"")
}

/// Puts the files of a stopped cluster on disk where its server may not have done it.
///
/// # Errors
/// What could not be synced: then nothing rests on the stop having been clean.
pub(super) fn sync_if_needed(root: &ReadRoot) -> io::Result<()> {
    if !may_be(root) {
        return Ok(());
    }
    let data = root.path();
    sync_everything(data)?;
    if root.read_link("pg_wal").is_ok() {
        sync_everything(&data.join("pg_wal"))?;
    }
    for tablespace in root.names("pg_tblspc")? {
        match sync_everything(&data.join("pg_tblspc").join(tablespace)) {
            // It is none.
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => {}
            synced => synced?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case::by_default("", "/bin/postgres \"-D\" \"/data\"", false)]
    #[case::on("fsync = on", "", false)]
    #[case::short_for_on("fsync = Y", "", false)]
    #[case::off("fsync = off", "", true)]
    #[case::off_at_last("fsync = on\nFSYNC 'false'", "", true)]
    #[case::in_another_file("include_if_exists 'more.conf'", "", true)]
    #[case::by_the_command_line("", "/bin/postgres \"-c\" \"fsync=off\"", true)]
    #[case::by_its_short_option("", "/bin/postgres \"-F\"", true)]
    fn whether_a_server_synced_is_told_by_how_it_was_set_up(
        #[case] configuration: &str,
        #[case] command_line: &str,
        #[case] expected: bool,
    ) {
        let data = tempfile::tempdir().unwrap();
        std::fs::write(data.path().join("postgresql.conf"), configuration).unwrap();
        std::fs::write(data.path().join(COMMAND_LINE), command_line).unwrap();

        assert_eq!(may_be(&ReadRoot::open(data.path()).unwrap()), expected);
    }
}

//! What the cluster stands on: the file system, its kind and mount, and the room that recovery needs.

use super::Inspection;
use crate::format::bytes;
use crate::plan::{Finding, Remedy, Severity};
use crate::sys::{Mount, disk_space, mount_of};
use std::path::PathBuf;

/// What recovery may write before its first checkpoint lets go of WAL, besides two segments. It need not: the checkpoint
/// that ends a recovery is one record, for which the last segment mostly has room (xlog.c, `CreateCheckPoint()`).
const RECOVERY_RESERVE_BYTES: u64 = 64 << 20;
/// With less, not even `postmaster.pid` can be written.
const LEAST_BYTES: u64 = 64 << 10;

/// File systems that are known to lose writes, locks or files under a database (`facts/corruption.md` §5, 14).
const RISKY_KINDS: [&str; 9] = ["virtiofs", "9p", "fuse", "fuseblk", "nfs", "nfs4", "drvfs", "cifs", "smb3"];

impl Inspection<'_> {
    /// Checks that replay finds room. Only a disk on which a server can write nothing at all keeps it from being started:
    /// how much replay writes is not known before, and a start that fails for want of room costs nothing.
    pub(super) fn check_disk(&mut self) {
        let Some(control) = self.control.as_ref().filter(|control| !control.state.is_clean()) else { return };
        let needed_bytes = 2 * u64::from(control.wal_segment_size) + RECOVERY_RESERVE_BYTES;
        for (place, path) in self.places() {
            let Ok(space) = disk_space(&path) else { continue };
            if let Some(finding) = shortage(place, space.available_bytes, needed_bytes) {
                self.report_with(finding);
                return;
            }
        }
    }

    /// Checks the kind of the file system and that it can be written to.
    pub(super) fn check_file_system(&mut self) {
        for (place, path) in self.places() {
            match mount_of(&path) {
                Ok(mount) => {
                    if let Some(finding) = verdict(place, &mount) {
                        self.report_with(finding);
                        return;
                    }
                }
                // `pg_wal` may be missing; that is told elsewhere.
                Err(_) if place != "." => {}
                Err(error) => {
                    let evidence = format!("the mount table could not be read: {error}");
                    self.report("file-system-unknown", Severity::Notice, place, evidence);
                }
            }
        }
    }

    /// Where what recovery writes goes.
    fn places(&self) -> [(&'static str, PathBuf); 2] {
        [(".", self.root.path().to_path_buf()), ("pg_wal", self.root.path().join("pg_wal"))]
    }
}

fn shortage(place: &str, available_bytes: u64, needed_bytes: u64) -> Option<Finding> {
    let available = bytes(available_bytes);
    if available_bytes < LEAST_BYTES {
        let evidence = format!("{available} are free on its disk, and no server can start without any room");
        let finding = Finding::new("disk-full", Severity::Error, place, evidence);
        return Some(finding.with_remedy(Remedy::FreeSpace));
    }
    let evidence = format!("{available} are free on its disk, and recovery may need {}", bytes(needed_bytes));
    (available_bytes < needed_bytes)
        .then(|| Finding::new("disk-nearly-full", Severity::Notice, place, evidence))
}

/// Whether a kind of file system is a share, of which other machines may use the same files.
pub(crate) fn is_share(kind: &str) -> bool {
    RISKY_KINDS.contains(&kind) || kind.starts_with("fuse.")
}

fn verdict(place: &str, mount: &Mount) -> Option<Finding> {
    if mount.is_read_only {
        let evidence = "it is mounted read-only, and no server can run in it";
        let finding = Finding::new("file-system-read-only", Severity::Error, place, evidence);
        return Some(finding.with_remedy(Remedy::MakeReadable));
    }
    let kind = mount.kind.as_str();
    let evidence = format!("it is on {kind}, which is known to lose what was written; a volume is safer");
    is_share(kind).then(|| Finding::new("file-system-risky", Severity::Notice, place, evidence))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(kind: &str, is_read_only: bool) -> Option<&'static str> {
        verdict(".", &Mount { kind: kind.to_owned(), is_read_only }).map(|finding| finding.code)
    }

    #[test]
    fn shares_of_a_host_are_told_and_disks_are_not() {
        for kind in ["virtiofs", "9p", "fuse.osxfs", "fuse", "nfs4", "cifs"] {
            assert_eq!(code(kind, false), Some("file-system-risky"), "{kind}");
        }
        for kind in ["ext4", "xfs", "btrfs", "zfs", "overlay", "tmpfs", ""] {
            assert_eq!(code(kind, false), None, "{kind}");
        }
    }

    #[test]
    fn a_read_only_mount_is_for_a_person() {
        let finding = verdict(".", &Mount { kind: "ext4".into(), is_read_only: true }).unwrap();
        assert_eq!((finding.severity, finding.remedy), (Severity::Error, Remedy::MakeReadable));
        assert_eq!(code("9p", true), Some("file-system-read-only"));
    }

    #[test]
    fn only_a_disk_without_any_room_is_for_a_person() {
        let finding = shortage("pg_wal", 20 << 20, 96 << 20).unwrap();
        assert_eq!((finding.severity, finding.remedy), (Severity::Notice, Remedy::Nothing));
        assert_eq!(finding.evidence, "20.0 MiB are free on its disk, and recovery may need 96.0 MiB");
        let finding = shortage(".", 4096, 96 << 20).unwrap();
        assert_eq!((finding.severity, finding.remedy), (Severity::Error, Remedy::FreeSpace));
        assert_eq!(shortage(".", 96 << 20, 96 << 20), None);
    }
}

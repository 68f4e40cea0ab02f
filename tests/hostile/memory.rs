//! Files of kilobytes that claim gigabytes: what they claim is not taken as memory.

use crate::support::directory;
use crate::support::sandbox::{Sandbox, has_postgresql, printed};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::process::{Command, Output, Stdio};

/// Far more than any of these commands needs, and far less than what the files claim.
const MOST_BYTES: u64 = 1 << 30;

/// Runs a command that gets no more memory than that: one that asks for more is aborted.
fn limited(sandbox: &Sandbox, arguments: &[&str]) -> Output {
    let command = sandbox.command(arguments);
    let variables = command.get_envs().filter_map(|(name, value)| Some((name, value?)));
    let mut limited = Command::new("prlimit");
    limited.arg(format!("--as={MOST_BYTES}")).arg(command.get_program()).args(command.get_args());
    limited.envs(variables).stdin(Stdio::null()).output().unwrap()
}

#[test]
fn a_catalog_of_holes_takes_no_memory() {
    // The damage: a file of pg_class that is as long as a segment can be, and then longer, with nothing in it.
    if !has_postgresql() {
        return;
    }
    let sandbox = Sandbox::with_backup();
    let of_template1 = File::options().write(true).open(sandbox.data().join("base/1/1259")).unwrap();
    for (size_bytes, expected) in [(1 << 30, "seal-size-changed"), (8 << 30, "longer than one can be")] {
        of_template1.set_len(size_bytes).unwrap();

        let output = limited(&sandbox, &["maintenance", "check"]);

        let told = printed(&output);
        assert_eq!(output.status.code(), Some(1), "{told}");
        assert!(told.contains(expected), "{told}");
    }
}

#[test]
fn a_pack_of_holes_takes_no_memory() {
    // Its footer claims 64 million entries, and the file is as long as it says.
    let sandbox = Sandbox::with_backup();
    let entry_count: u32 = 64 << 20;
    let index_offset: u64 = 4096;
    let mut footer = [&index_offset.to_le_bytes()[..], &entry_count.to_le_bytes(), &[0; 4 + 32]].concat();
    footer.extend_from_slice(b"PGBXPK01");
    let place = sandbox.backups().join("packs/00");
    fs::create_dir_all(&place).unwrap();
    let pack = File::create(place.join(format!("{}.pack", "0".repeat(64)))).unwrap();
    pack.write_all_at(&footer, index_offset + u64::from(entry_count) * 48).unwrap();

    for arguments in [&["backup-postgresql", "verify", "--all"][..], &["backup-postgresql", "list"]] {
        let output = limited(&sandbox, arguments);

        assert!(
            output.status.code().is_some_and(|code| code < 10),
            "{}: {}",
            output.status,
            printed(&output)
        );
    }
}

#[test]
fn a_manifest_of_holes_takes_no_memory() {
    let sandbox = Sandbox::with_backup();
    let source = directory::make();
    let manifest = File::create(source.path().join("backup_manifest")).unwrap();
    manifest.set_len(1_000_000_000).unwrap();
    super::programs::let_everybody_read(source.path());

    let output = limited(&sandbox, &["backup-postgresql", "import", source.path().to_str().unwrap()]);

    let told = printed(&output);
    assert_eq!(output.status.code(), Some(6), "{told}");
    assert!(told.contains("more than the files that are in it"), "{told}");
}

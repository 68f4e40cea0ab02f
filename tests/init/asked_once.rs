//! What a start asks of programs and of the repository: as little as it takes, and never without an end.

use crate::support::sandbox::{Sandbox, has_postgresql, run};
use crate::support::unpluggable_disk::UnpluggableDisk;
use rstest::rstest;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

const INIT: [&str; 2] = ["init-postgresql", "--no-backup"];

/// Programs that note with which arguments they are run, before they become the real ones.
struct Noting {
    sandbox: Sandbox,
    notes: PathBuf,
}

impl Noting {
    fn new(mut sandbox: Sandbox) -> Self {
        let programs = sandbox.path().join("programs");
        let notes = sandbox.path().join("notes");
        fs::create_dir(&programs).unwrap();
        fs::write(&notes, "").unwrap();
        fs::set_permissions(&notes, fs::Permissions::from_mode(0o666)).unwrap();
        let real = Path::new("/usr/lib/postgresql/15/bin");
        for entry in fs::read_dir(real).unwrap() {
            let entry = entry.unwrap();
            std::os::unix::fs::symlink(entry.path(), programs.join(entry.file_name())).unwrap();
        }
        for (name, path) in [("postgres", real.join("postgres")), ("perl", "/usr/bin/perl".into())] {
            let script = format!(
                "#!/bin/sh\necho \"{name} $*\" | tr '\\n' ' ' >>'{}'\necho >>'{0}'\nexec {} \"$@\"\n",
                notes.display(),
                path.display()
            );
            // Another process writes it: a program that is open for writing here cannot be run.
            let place = programs.join(name);
            let write = "rm -f \"$1\" && printf %s \"$2\" >\"$1\" && chmod 755 \"$1\"";
            run(Command::new("sh").args(["-c", write, "sh"]).arg(&place).arg(script));
        }
        let path = std::env::var("PATH").unwrap();
        sandbox.set("PATH", format!("{}:{path}", programs.display()));
        sandbox.set("POSTGRES_BIN_DIR", programs.display().to_string());
        Self { sandbox, notes }
    }

    /// Runs a start, and returns how often a configuration was asked for, and how often the kernel for leases.
    fn start(&self) -> (usize, usize) {
        fs::write(&self.notes, "").unwrap();
        self.sandbox.succeed(&INIT);
        let notes = fs::read_to_string(&self.notes).unwrap();
        let count = |sign: &str| notes.lines().filter(|line| line.starts_with(sign)).count();
        (count("postgres -C"), count("perl"))
    }
}

#[test]
fn what_a_start_asked_the_next_one_knows_and_the_kernel_is_asked_at_both_moments() {
    // Once before the lock is taken, and once more before the server is started; after a crash also before the pid file
    // of the dead server is removed.
    if !has_postgresql() {
        return;
    }
    let noting = Noting::new(Sandbox::with_backup());
    let (first, _) = noting.start();
    assert!((1..=3).contains(&first), "{first} times");
    noting.sandbox.succeed(&["maintenance", "stop"]);

    assert_eq!(noting.start(), (0, 2));

    noting.sandbox.kill_server();
    noting.sandbox.remove_remains();
    assert_eq!(noting.start(), (0, 3));
}

#[rstest]
#[case::that_the_configuration_names("lc_messages = 'xx_XX.utf8'")]
fn a_line_that_only_another_system_refuses_is_found_though_it_served_before(#[case] line: &str) {
    // A new image that lacks a locale. The programs are the same, and so is every byte of the configuration.
    if !has_postgresql() {
        return;
    }
    let mut sandbox = Sandbox::with_backup();
    let locales = sandbox.path().join("locales");
    fs::create_dir(&locales).unwrap();
    run(Command::new("cp").args(["-rL", "/usr/lib/locale/C.utf8"]).arg(locales.join("xx_XX.utf8")));
    sandbox.set("LOCPATH", locales.display().to_string());
    let configuration = sandbox.data().join("postgresql.conf");
    let text = fs::read_to_string(&configuration).unwrap();
    fs::write(&configuration, format!("{text}{line}\n")).unwrap();
    sandbox.succeed(&INIT);
    assert_eq!(sandbox.sql("SHOW lc_messages"), "xx_XX.utf8");
    sandbox.succeed(&["maintenance", "stop"]);
    fs::remove_dir_all(locales.join("xx_XX.utf8")).unwrap();

    sandbox.set("RECOVERY", "repair");
    let told = sandbox.expect_status(&INIT, 6);

    assert!(told.contains(line), "{told}");
    assert!(!sandbox.data().join(".pgbox/usable-postgresql.conf").exists());
    sandbox.set("RECOVERY", "auto");
    let told = sandbox.succeed(&INIT);
    assert!(told.contains("not in force: invalid value for parameter \"lc_messages\""), "{told}");
}

#[test]
fn a_repository_that_hangs_keeps_no_sound_server_from_starting() {
    // As on a network mount whose server is gone: no call returns, and none fails.
    if !has_postgresql() {
        return;
    }
    let mut sandbox = Sandbox::with_backup();
    let (backups, mounted) = (sandbox.backups(), sandbox.path().join("mounted"));
    let Some(disk) = UnpluggableDisk::new(&backups, &mounted) else { return };
    sandbox.set("BACKUP_DIR", mounted.display().to_string());
    disk.hang();

    let told = sandbox.succeed(&["init-postgresql"]);

    assert!(told.contains("no answer within"), "{told}");
    assert!(told.contains("no backup was made"), "{told}");
    assert_eq!(sandbox.sql("SELECT count(*) FROM kept"), "100");
}

//! A server that knows nothing of pgbox's lock, started on a cluster whose restore was cut short: it serves a whole state
//! or none, and what it acknowledged is there afterwards.

use std::path::Path;
use std::process::{Command, Stdio};

use pgbox::repository::Repository;
use rstest::rstest;

use super::delta::{FREE_MIB, Tight};
use super::restored::restore;
use super::server::program;
use crate::support::extent::is_wanted;
use crate::support::sandbox::{Sandbox, has_postgresql, printed, run};
use crate::support::step_points::{KILL_AT, POINTS, has_step_points, pause_at, points};
use crate::support::wait::wait_until;

const INIT: [&str; 2] = ["init-postgresql", "--no-backup"];
/// At these points another server is likeliest to start; they are tried whatever the extent of the tests.
const MOMENTS: [&str; 5] = [
    "journal begun",
    "the control file in place",
    "turned back",
    "the former cluster is back",
    "all moved up",
];

/// What is in the two tables, but for the other server's row; each state has the same number in both.
const STATE: &str = "SELECT (SELECT count(*) FROM kept WHERE id < 5000), (SELECT count(*) FROM second)";

/// The same of a cluster whose second table is damaged.
const FIRST: &str = "SELECT count(*) FROM kept WHERE id < 5000";

/// What a cluster has in its two tables.
const AT_BACKUP: &str = "100|100";
const AT_END: &str = "50|50";

/// A stopped cluster that was changed since its backup, and the backup's name. Its owner has a `restore_command`, so that
/// PostgreSQL itself would recover what pgbox restored.
fn changed() -> (Sandbox, String) {
    let sandbox = Sandbox::with_backup();
    sandbox.succeed(&INIT);
    sandbox.sql("CREATE TABLE second AS SELECT * FROM kept");
    sandbox.sql("ALTER SYSTEM SET restore_command = 'false'");
    sandbox.succeed(&["backup-postgresql", "create"]);
    let name = sandbox.backup_names("data_").remove(0);
    sandbox.sql("DELETE FROM second WHERE id > 50; DELETE FROM kept WHERE id > 50");
    sandbox.succeed(&["maintenance", "stop"]);
    (sandbox, name)
}

/// How a restore goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// The present files are changed, since there is no room for others.
    InPlace,
    /// The cluster is built beside the present one.
    Beside,
}

impl Way {
    fn copy(self, scene: &Sandbox) -> Tight {
        let free_mib = if self == Self::InPlace { FREE_MIB } else { 600 };
        Tight::copy_of(scene, free_mib).unwrap()
    }
}

/// What another server made of a data directory.
#[derive(Debug, PartialEq, Eq)]
enum Other {
    /// It refused to start.
    Refused,
    /// It served this state, and acknowledged the row 5000 of `kept`.
    Served(String),
}

/// Starts PostgreSQL's own server if it can be started, adds a row, and stops it cleanly.
fn serve_otherwise(sandbox: &Sandbox, question: &str) -> Other {
    let socket = sandbox.path().join("other");
    std::fs::create_dir_all(&socket).unwrap();
    run(Command::new("chown").arg("postgres").arg(&socket));
    let pg_ctl = || {
        let mut command = program("pg_ctl");
        command
            .arg("-D")
            .arg(sandbox.data())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command
    };
    let options = format!("-k {} -c listen_addresses= -c archive_mode=off -p 5432", socket.display());
    let mut start = pg_ctl();
    start.args(["-w", "-o", &options, "-l"]).arg(socket.join("log")).arg("start");
    if !start.status().unwrap().success() {
        return Other::Refused;
    }
    let sql = |statement: &str| {
        let mut psql = program("psql");
        psql.arg("-h").arg(&socket).args(["-d", "dbuser", "-XAtqv", "ON_ERROR_STOP=1", "-c", statement]);
        run(&mut psql).trim().to_owned()
    };
    let state = sql(question);
    sql("INSERT INTO kept VALUES (5000)");
    run(pg_ctl().args(["-m", "fast", "-w", "stop"]));
    Other::Served(state)
}

/// A command that is cut short, and where.
struct Scene<'a> {
    sandbox: &'a Sandbox,
    way: Way,
    command: &'a [&'a str],
    /// For the command alone.
    variables: &'a [(&'a str, &'a str)],
    /// What the other server is asked for.
    question: &'a str,
}

/// Kills the command at each of its points, has another server run, and starts again.
fn meet_everywhere(scene: &Scene, names: &[String]) {
    let is_in_place = names.iter().any(|name| name == "the control file taken away");
    assert_eq!(is_in_place, scene.way == Way::InPlace, "{names:?}");
    let mut served = 0;
    let chosen = |index: &usize| is_wanted(*index, 8) || MOMENTS.contains(&names[*index].as_str());
    for index in (0..names.len()).filter(chosen) {
        let Tight { sandbox, _disk } = scene.way.copy(scene.sandbox);
        let mut killed = sandbox.command(scene.command);
        killed.env(KILL_AT, (index + 1).to_string()).envs(scene.variables.iter().copied());
        let killed = killed.output().unwrap();
        assert_eq!(killed.status.code(), None, "not killed at {}: {}", names[index], printed(&killed));
        if sandbox.postmaster().is_some_and(|pid| Path::new(&format!("/proc/{pid}")).exists()) {
            sandbox.kill_server();
            // In a new container its number is nobody's; here nobody may have buried it yet.
            std::fs::remove_file(sandbox.data().join("postmaster.pid")).unwrap();
        }

        let other = serve_otherwise(&sandbox, scene.question);

        eprintln!("point {} of {}, {}: {other:?}", index + 1, names.len(), names[index]);
        served += u32::from(other != Other::Refused);
        judge(&sandbox, &other);
        drop(sandbox);
    }
    assert!(served > 0, "no other server ever served, so that nothing was shown: {names:?}");
}

/// Starts pgbox's server: it has one state, whole, and that of the other server with what was written there.
fn judge(sandbox: &Sandbox, other: &Other) {
    let told = sandbox.succeed(&INIT);
    let state = sandbox.sql(STATE);
    assert!([AT_BACKUP, AT_END].contains(&state.as_str()), "{state}");
    if let Other::Served(seen) = other {
        assert!(state == *seen || state.starts_with(&format!("{seen}|")), "{seen} became {state}\n{told}");
        assert_eq!(sandbox.sql("SELECT count(*) FROM kept WHERE id = 5000"), "1", "{told}");
    }
    for name in ["journal.json", "former_pg_control", "removed", "failed"] {
        assert!(!sandbox.data().join(".pgbox").join(name).exists(), "{name} is left");
    }
}

#[rstest]
#[case::in_place(Way::InPlace)]
#[case::beside(Way::Beside)]
fn another_server_meets_a_restore_that_was_cut_short(#[case] way: Way) {
    if !has_postgresql() || !has_step_points() {
        return;
    }
    let (sandbox, name) = changed();
    let command = ["backup-postgresql", "restore", &name, "--yes", "--no-backup"];
    let names = points(&way.copy(&sandbox).sandbox, &command);
    let scene = Scene { sandbox: &sandbox, way, command: &command, variables: &[], question: STATE };

    meet_everywhere(&scene, &names);
}

#[rstest]
#[case::in_place(Way::InPlace)]
#[case::beside(Way::Beside)]
fn another_server_meets_a_restore_that_was_being_taken_back(#[case] way: Way) {
    // The port is taken, so that the restored cluster does not serve pgbox. The other server needs none.
    if !has_postgresql() || !has_step_points() {
        return;
    }
    let (sandbox, name) = changed();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let command = ["backup-postgresql", "restore", &name, "--yes", "--no-backup"];
    let variables = [("PGPORT", port.as_str())];
    let names = points_of_failure(&way.copy(&sandbox).sandbox, &command, &variables);
    assert!(names.iter().any(|name| name == "turned back"), "{names:?}");
    let scene = Scene { sandbox: &sandbox, way, command: &command, variables: &variables, question: STATE };

    meet_everywhere(&scene, &names);
}

/// The points that a command comes to which fails.
fn points_of_failure(sandbox: &Sandbox, command: &[&str], variables: &[(&str, &str)]) -> Vec<String> {
    let list = sandbox.path().join("points");
    std::fs::write(&list, "").unwrap();
    run(Command::new("chmod").arg("666").arg(&list));
    let mut failed = sandbox.command(command);
    let failed = failed.envs(variables.iter().copied()).env(POINTS, &list).output().unwrap();
    assert_eq!(failed.status.code(), Some(1), "{}", printed(&failed));
    std::fs::read_to_string(&list).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn another_server_meets_a_recovery_that_was_cut_short() {
    // One table is lost, so that the cluster is restored with the WAL since its backup; the other server does not notice.
    if !has_postgresql() || !has_step_points() {
        return;
    }
    let (sandbox, _) = changed();
    sandbox.succeed(&INIT);
    let lost = sandbox.data().join(sandbox.sql("SELECT pg_relation_filepath('second')"));
    sandbox.succeed(&["maintenance", "stop"]);
    std::fs::remove_file(lost).unwrap();
    let way = Way::Beside;
    let names = points(&way.copy(&sandbox).sandbox, &INIT);
    let scene = Scene { sandbox: &sandbox, way, command: &INIT, variables: &[], question: FIRST };

    meet_everywhere(&scene, &names);
}

#[rstest]
#[case::in_place(Way::InPlace, "what differs can be read")]
#[case::beside(Way::Beside, "built in staging")]
fn another_server_that_came_and_went_while_a_restore_was_prepared_is_seen(
    #[case] way: Way,
    #[case] point: &str,
) {
    if !has_postgresql() || !has_step_points() {
        return;
    }
    let (sandbox, name) = changed();
    let command = ["backup-postgresql", "restore", &name, "--yes", "--no-backup"];
    let names = points(&way.copy(&sandbox).sandbox, &command);
    let number = names.iter().position(|name| name == point).unwrap() + 1;
    let Tight { sandbox, _disk } = way.copy(&sandbox);

    let (output, other) = pause_at(&sandbox, number, &command, || serve_otherwise(&sandbox, STATE));

    assert_eq!(output.status.code(), Some(5), "{}", printed(&output));
    assert!(printed(&output).contains("another server wrote to"), "{}", printed(&output));
    assert_eq!(other, Other::Served(AT_END.to_owned()));
    judge(&sandbox, &other);
    drop(sandbox);
}

#[rstest]
#[case::in_place(Way::InPlace)]
#[case::beside(Way::Beside)]
fn rows_that_clients_committed_to_a_cluster_that_is_taken_back_are_kept(#[case] way: Way) {
    if !has_postgresql() || !has_step_points() {
        return;
    }
    // With this index gone, the server that took the row takes no second connection, so that it does not pass.
    let (scene, name) = changed();
    let command = ["backup-postgresql", "restore", &name, "--yes", "--no-backup"];
    let names = points(&way.copy(&scene).sandbox, &command);
    let number = names.iter().position(|name| name == "the replacement is open").unwrap() + 1;
    let Tight { sandbox, _disk } = way.copy(&scene);
    let index = sandbox.data().join("global/2671");
    let hidden = "global/hidden";

    let (output, ()) = pause_at(&sandbox, number, &command, || {
        wait_until("it serves", || sandbox.psql().args(["-c", ""]).output().unwrap().status.success());
        sandbox.sql("INSERT INTO kept VALUES (5000)");
        std::fs::rename(&index, sandbox.data().join(hidden)).unwrap();
    });

    let told = printed(&output);
    assert!(
        !output.status.success() && told.contains("clients may have written to the new cluster"),
        "{told}"
    );
    sandbox.succeed(&INIT);
    assert_eq!(sandbox.sql(STATE), AT_END);
    assert_eq!(sandbox.sql("SELECT count(*) FROM kept WHERE id = 5000"), "0");
    sandbox.succeed(&["backup-postgresql", "create", "--force"]);
    let kept = told.split("it is kept as ").nth(1).unwrap().split_whitespace().next().unwrap();
    assert!(sandbox.backup_names("replaced_").contains(&kept.to_owned()), "{kept}");
    let repository = Repository::open(&sandbox.backups(), None).unwrap().unwrap();
    let restored = restore(&repository, kept.parse().unwrap());
    std::fs::rename(restored.data().join(hidden), restored.data().join("global/2671")).unwrap();
    let server = restored.start();
    let mut psql = server.tool("psql");
    psql.args(["-d", "dbuser", "-XAtqc", "SELECT count(*) FROM kept WHERE id = 5000"]);
    assert_eq!(run(&mut psql).trim(), "1");
    drop(sandbox);
}

//! One container that is killed and started again, round after round: it keeps its sockets, lock files and pid files,
//! and the process numbers in them belong to other processes each time.
//!
//! Clients note each row that the server acknowledged. After every kill the server serves again within seconds, has
//! every one of those rows, and nothing was restored or set aside for it.

use std::collections::BTreeSet;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rstest::rstest;

use crate::support::docker::{Container, Volumes};
use crate::support::extent::few_or_many;
use crate::support::wait::wait_until;

/// The longest that the server may be away after a kill.
const LONGEST_ABSENCE: Duration = Duration::from_secs(10);
/// More rows than any round takes: the kill ends the clients.
const ROWS_OF_A_CLIENT: usize = 100_000;
const CLIENTS: usize = 2;

/// How the server, or the container with it, comes to an end.
#[derive(Clone, Copy)]
enum Kill {
    /// `docker kill`: the host crashed, or was out of memory.
    Container,
    /// SIGKILL for the postmaster alone, which the supervisor starts again.
    Postmaster,
    /// `docker kill`, and once more at some moment of the start that follows.
    StartUnderWay,
    /// `docker stop --time 1`: SIGKILL follows before a fast shutdown needs to have ended.
    ShortStop,
}

/// What pgbox does at the moment of the kill.
#[derive(Clone, Copy)]
enum Beside {
    Nothing,
    Backups,
    Restore,
}

#[rstest]
#[case::the_container(Kill::Container, Beside::Nothing)]
#[case::the_postmaster(Kill::Postmaster, Beside::Nothing)]
#[case::a_start_under_way(Kill::StartUnderWay, Beside::Nothing)]
#[case::a_stop_that_is_cut_short(Kill::ShortStop, Beside::Nothing)]
#[case::the_container_during_backups(Kill::Container, Beside::Backups)]
#[case::the_container_during_restores(Kill::Container, Beside::Restore)]
fn kill_after_kill_of_one_container_loses_nothing_and_replaces_nothing(
    #[case] kill: Kill,
    #[case] beside: Beside,
) {
    let Some(volumes) = Volumes::new() else { return };
    let scene = Scene::new(&volumes);
    let mut acknowledged = BTreeSet::new();
    for round in 1..=few_or_many(5, 50) {
        match beside {
            Beside::Restore => scene.kill_a_restore(&mut acknowledged, round),
            _ => scene.kill_with_clients(&mut acknowledged, kill, beside, round),
        }
        scene.assert_whole(&acknowledged, beside, round);
    }
}

/// A container with a table that clients add rows to.
struct Scene {
    container: Container,
}

impl Scene {
    fn new(volumes: &Volumes) -> Self {
        let container = volumes.start();
        container.wait_until_ready();
        container.sql("CREATE TABLE acknowledged (id bigint GENERATED ALWAYS AS IDENTITY)");
        container.back_up();
        Self { container }
    }

    /// Kills while clients commit rows, at another moment in each round, and waits until the server serves again.
    fn kill_with_clients(&self, acknowledged: &mut BTreeSet<u64>, kill: Kill, beside: Beside, round: u32) {
        let before = self.count();
        let clients: Vec<_> = (0..CLIENTS).map(|_| self.start_client()).collect();
        let wanted = before + 20 + u64::from(round * 37 % 200);
        wait_until("rows to be committed", || self.count() >= wanted);
        if matches!(beside, Beside::Backups) {
            self.begin_command(round);
        }
        let killed = self.kill(kill, round);
        acknowledged.extend(clients.into_iter().flat_map(acknowledged_by));
        self.wait_until_serving(killed, round);
    }

    /// Clients that insert one row after another; psql prints a row's number once its commit was acknowledged.
    fn start_client(&self) -> JoinHandle<String> {
        let inserts = "INSERT INTO acknowledged DEFAULT VALUES RETURNING id;\n".repeat(ROWS_OF_A_CLIENT);
        let psql = ["runuser", "-u", "postgres", "--", "psql", "-XAtq", "-d", "postgres"];
        self.container.pipe_in_background(inserts, &psql)
    }

    /// Begins one of the commands that work on backups, another one in each round.
    fn begin_command(&self, round: u32) {
        let command = match round % 3 {
            0 => "backup-postgresql create --force",
            1 => "backup-postgresql verify --all",
            _ => "backup-postgresql create --force && backup-postgresql cleanup --max-backups 2",
        };
        self.container.spawn(&["sh", "-c", command]);
    }

    /// Kills a restore at some moment of it. No client is at work: what is committed after a backup, a restore of that
    /// backup takes back by request.
    fn kill_a_restore(&self, acknowledged: &mut BTreeSet<u64>, round: u32) {
        let rows =
            self.container.sql("INSERT INTO acknowledged SELECT FROM generate_series(1, 50) RETURNING id");
        acknowledged.extend(rows.lines().map(|line| line.parse::<u64>().unwrap()));
        self.container.back_up();
        let way = if round.is_multiple_of(2) { "--full" } else { "" };
        self.container.spawn(&["sh", "-c", &format!("backup-postgresql restore latest --yes {way}")]);
        pass(round);
        let killed = self.kill(Kill::Container, round);
        self.wait_until_serving(killed, round);
    }

    /// Kills, and starts again what does not start by itself. Returns when that was done.
    fn kill(&self, kill: Kill, round: u32) -> Instant {
        match kill {
            Kill::Container => self.container.kill(),
            Kill::Postmaster => {
                self.container.run(&["sh", "-c", "kill -KILL \"$(head -n 1 \"$PGDATA/postmaster.pid\")\""]);
                return Instant::now();
            }
            Kill::StartUnderWay => {
                self.container.kill();
                self.container.start();
                pass(round);
                self.container.kill();
            }
            Kill::ShortStop => self.container.stop_within(Duration::from_secs(1)),
        }
        let killed = Instant::now();
        self.container.start();
        killed
    }

    fn count(&self) -> u64 {
        self.container.sql("SELECT count(*) FROM acknowledged").parse().unwrap()
    }

    #[track_caller]
    fn wait_until_serving(&self, killed: Instant, round: u32) {
        self.container.wait_until_ready();
        let absence = killed.elapsed();
        assert!(absence < LONGEST_ABSENCE, "round {round}: away for {absence:?}: {}", self.container.log());
    }

    #[track_caller]
    fn assert_whole(&self, acknowledged: &BTreeSet<u64>, beside: Beside, round: u32) {
        let present: BTreeSet<u64> = self
            .container
            .sql("SELECT id FROM acknowledged ORDER BY id")
            .lines()
            .map(|line| line.parse().unwrap())
            .collect();
        let lost: Vec<_> = acknowledged.difference(&present).collect();
        assert!(lost.is_empty(), "round {round}: acknowledged, and lost: {lost:?}");
        let log = self.container.log();
        assert!(!log.contains("to start the server failed"), "round {round}: {log}");
        // A restore by a person keeps what it replaces.
        if !matches!(beside, Beside::Restore) {
            let listing = "ls -d \"$PGDATA\"/.pgbox/aside/*_* \"$BACKUP_DIR\"/damaged_* \"$BACKUP_DIR\"/replaced_* 2>/dev/null || true";
            let kept = self.container.run(&["sh", "-c", listing]);
            assert_eq!(kept, "", "round {round}: set aside: {log}");
            assert!(!log.contains("restored data_"), "round {round}: {log}");
        }
    }
}

/// The rows that one client saw committed, once its connection has ended. The last line may be cut.
fn acknowledged_by(client: JoinHandle<String>) -> Vec<u64> {
    let printed = client.join().unwrap();
    let whole = printed.rfind('\n').map_or("", |end| &printed[..end]);
    whole.lines().map(|line| line.parse().unwrap()).collect()
}

/// Lets some of what was begun happen: up to half a second of it, another part in each round.
fn pass(round: u32) {
    std::thread::sleep(Duration::from_millis(u64::from(round * 97 % 500)));
}

//! What an attacker plants in a directory where root gives entries away.

use super::*;
use rstest::rstest;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown, symlink};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;

const SERVER: u32 = 4242;
const FORMER: u32 = 4243;
const STRANGER: u32 = 65_534;

/// A directory to give below, and a directory of root's beside it with a secret.
struct Scene {
    root: TempDir,
}

impl Scene {
    /// None where we are not root, who alone can give anything away.
    fn new() -> Option<Self> {
        let root = tempfile::tempdir().unwrap();
        if !rustix::process::geteuid().is_root() {
            assert!(std::env::var_os("CI").is_none(), "we are not root");
            return None;
        }
        for directory in ["given/sub", "victim/sub"] {
            fs::create_dir_all(root.path().join(directory)).unwrap();
        }
        for file in ["given/file", "given/sub/file", "victim/secret", "victim/sub/secret"] {
            fs::write(root.path().join(file), "text").unwrap();
        }
        Some(Self { root })
    }

    fn at(&self, path: &str) -> PathBuf {
        self.root.path().join(path)
    }

    fn owner(&self, path: &str) -> u32 {
        self.at(path).symlink_metadata().unwrap().uid()
    }

    fn give(&self, path: &str) -> io::Result<OwnershipReport> {
        let owner = Identity { uid: SERVER, gid: SERVER, name: None };
        HeldDirectory::open(&self.at(path))?
            .give_below(Giving { owner: &owner, former: Some(FORMER) }, &|_, _| true)
    }

    fn assert_victim_is_roots(&self) {
        for path in ["victim", "victim/secret", "victim/sub", "victim/sub/secret"] {
            assert_eq!(self.owner(path), 0, "{path}");
        }
    }
}

#[test]
fn what_is_roots_or_a_former_users_is_given_and_nothing_above_it() {
    let Some(scene) = Scene::new() else { return };
    lchown(scene.at("given/file"), Some(FORMER), None).unwrap();

    let report = scene.give("given").unwrap();

    assert_eq!((report.changed_count, report.refused.as_slice()), (3, [].as_slice()));
    assert_eq!(["given/file", "given/sub", "given/sub/file"].map(|path| scene.owner(path)), [SERVER; 3]);
    assert_eq!(scene.owner("given"), 0);
    assert_eq!(scene.give("given").unwrap(), OwnershipReport::default());
}

#[rstest]
#[case::link_to_a_directory(|scene: &Scene| symlink(scene.at("victim"), scene.at("given/planted")).unwrap(), None)]
#[case::link_to_a_file(|scene: &Scene| symlink(scene.at("victim/secret"), scene.at("given/planted")).unwrap(), None)]
#[case::hard_link(
    |scene: &Scene| fs::hard_link(scene.at("victim/secret"), scene.at("given/planted")).unwrap(),
    Some(Refusal::HasOtherName)
)]
#[case::directory_of_a_stranger(
    |scene: &Scene| {
        fs::create_dir(scene.at("given/planted")).unwrap();
        fs::rename(scene.at("victim"), scene.at("given/planted/moved")).unwrap();
        symlink(scene.at("given/planted/moved"), scene.at("victim")).unwrap();
        lchown(scene.at("given/planted"), Some(STRANGER), None).unwrap();
    },
    Some(Refusal::Foreign { uid: STRANGER })
)]
#[case::file_of_a_stranger(
    |scene: &Scene| {
        fs::write(scene.at("given/planted"), "theirs").unwrap();
        lchown(scene.at("given/planted"), Some(STRANGER), None).unwrap();
    },
    Some(Refusal::Foreign { uid: STRANGER })
)]
fn what_was_planted_keeps_its_owner(#[case] plant: fn(&Scene), #[case] refusal: Option<Refusal>) {
    let Some(scene) = Scene::new() else { return };
    plant(&scene);
    let before = scene.owner("given/planted");

    let report = scene.give("given").unwrap();

    assert_eq!(report.changed_count, 3, "what is ours is given all the same");
    let expected: Vec<_> = refusal.map(|refusal| (scene.at("given/planted"), refusal)).into_iter().collect();
    assert_eq!(report.refused, expected);
    assert_eq!(scene.owner("given/planted"), before);
    scene.assert_victim_is_roots();
}

#[rstest]
#[case::at_its_end("link")]
#[case::on_the_way("link/sub")]
fn root_follows_its_own_links_and_no_others(#[case] path: &str) {
    let Some(scene) = Scene::new() else { return };
    symlink("given", scene.at("link")).unwrap();
    HeldDirectory::open(&scene.at(path)).unwrap();
    fs::hard_link(scene.at("link"), scene.at("same link")).unwrap();
    assert_eq!(HeldDirectory::open(&scene.at(path)).unwrap_err().kind(), io::ErrorKind::PermissionDenied);
    fs::remove_file(scene.at("same link")).unwrap();

    lchown(scene.at("link"), Some(STRANGER), None).unwrap();

    let error = HeldDirectory::open(&scene.at(path)).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
    assert!(error.to_string().contains("is a link of user 65534"), "{error}");
}

#[test]
fn an_exchange_at_any_moment_leads_nowhere() {
    let Some(scene) = Scene::new() else { return };
    symlink(scene.at("victim"), scene.at("planted")).unwrap();
    // The other name of the exchange is out of reach of what is given.
    let (one, other) = (scene.at("given/sub"), scene.at("planted"));
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                renameat_with(CWD, &one, CWD, &other, RenameFlags::EXCHANGE).unwrap();
            }
        });
        let end = Instant::now() + Duration::from_millis(500);
        while Instant::now() < end {
            lchown(scene.at("given/file"), Some(0), None).unwrap();
            scene.give("given").unwrap();
        }
        is_over.store(true, Ordering::Relaxed);
    });

    scene.assert_victim_is_roots();
}

#[test]
fn another_file_system_below_is_left_alone() {
    let owner = Identity { uid: SERVER, gid: SERVER, name: None };
    let root = HeldDirectory::open(Path::new("/")).unwrap();
    let device = fstat(&root.handle).unwrap().st_dev;
    let stat = fstat(&HeldDirectory::open(Path::new("/proc")).unwrap().handle).unwrap();
    let giving = Giving { owner: &owner, former: None };
    let is_wanted = &|_: &str, _: &FileFacts| true;
    let walk = Walk { giving, is_wanted, device, root: Path::new("/"), report: OwnershipReport::default() };

    assert_eq!(walk.refusal(&stat, &facts_of_stat(&stat)), Some(Refusal::OtherFileSystem));
}

#[rstest]
#[case::directory("given/sub", 0o750)]
#[case::file("given/file", 0o640)]
fn a_mode_is_set_by_a_handle(#[case] path: &str, #[case] mode: u32) {
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir_all(directory.path().join("given/sub")).unwrap();
    fs::write(directory.path().join("given/file"), "").unwrap();
    symlink(path, directory.path().join("link")).unwrap();
    let handle = |path: &str| rustix::fs::open(directory.path().join(path), HANDLE, Mode::empty()).unwrap();

    set_mode(handle(path), mode).unwrap();
    set_mode(handle("link"), 0o777).unwrap_err();

    let found = fs::metadata(directory.path().join(path)).unwrap().permissions().mode() & 0o7777;
    assert_eq!(found, mode);
}

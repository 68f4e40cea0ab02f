//! Opens files by names that others may have put there: a regular file, or an error at once.
//!
//! To open a FIFO waits for somebody at its other end, perhaps for ever, and to open a device may do anything. So every
//! file that is read or written by its name is opened without waiting and without becoming a terminal of ours, and then
//! looked at: what is no regular file is refused by its kind. What is written is not reached through a link either.
//!
//! Whatever is opened here is on the disk of whoever planted it, so a size is bounded by the reader, not here.

use rustix::fd::AsRawFd;
use rustix::fs::{FileType, Mode, OFlags, fcntl_getfl, fcntl_setfl, fstat};
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Flags with which nothing waits, and no terminal becomes ours.
pub(super) const CAREFUL: OFlags = OFlags::NONBLOCK.union(OFlags::NOCTTY);
/// How often a file is asked for again that another holds a lease on (a file server such as Samba or the kernel's NFS
/// server), and how long the pauses are: without waiting, such a file is refused while the lease is being given back.
const TRIES: u32 = 250;
const PAUSE: Duration = Duration::from_millis(20);
/// Where a process finds what it was given open.
const OWN_DESCRIPTORS: [&str; 3] = ["/dev/stdin", "/dev/fd", "/proc/self/fd"];

/// Whether a link of the name is followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Links {
    /// As a person means who gives a path: Kubernetes mounts secrets as links.
    Follow,
    /// It is refused: the directory is one that others may write to.
    Refuse,
}

/// An entry that is there and is no regular file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{}' is {kind}, not a file", .path.display())]
pub struct NotAFile {
    /// Where it is.
    pub path: PathBuf,
    /// What it is, in words.
    pub kind: &'static str,
}

impl From<NotAFile> for io::Error {
    fn from(error: NotAFile) -> Self {
        let kind = match error.kind {
            DIRECTORY => io::ErrorKind::IsADirectory,
            _ => io::ErrorKind::InvalidInput,
        };
        Self::new(kind, error)
    }
}

const DIRECTORY: &str = "a directory";

/// Opens a regular file for reading.
///
/// # Errors
/// [`NotAFile`] for what is none.
pub fn open_regular(path: &Path, links: Links) -> io::Result<File> {
    open_with(path, OFlags::RDONLY, links)
}

/// Opens a file that a person named as the source of a value, such as a password: a regular file, or a pipe that this
/// process was given open and that is named as such (`/dev/stdin`, `/dev/fd/63` of a shell's process substitution).
///
/// A FIFO with a name of its own is refused: nobody may ever write to it.
///
/// # Errors
/// [`NotAFile`] for anything else.
pub fn open_value(path: &Path) -> io::Result<File> {
    if !OWN_DESCRIPTORS.iter().any(|own| path.starts_with(own)) {
        return open_regular(path, Links::Follow);
    }
    let file = File::from(rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC | CAREFUL, Mode::empty())?);
    match FileType::from_raw_mode(fstat(&file)?.st_mode) {
        FileType::RegularFile | FileType::Fifo => {
            // Whoever writes to the pipe may not have begun yet.
            fcntl_setfl(&file, fcntl_getfl(&file)? - OFlags::NONBLOCK)?;
            Ok(file)
        }
        other => Err(not_a_file(path, other).into()),
    }
}

/// Opens a regular file, which is made where there is none, for appending; only where it has no other name, so that
/// nothing is appended to a file of another directory.
///
/// # Errors
/// [`NotAFile`] for a link, a file with another name, and what is no file.
pub fn open_log(path: &Path, mode: u32) -> io::Result<File> {
    let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE;
    let flags = flags | OFlags::CLOEXEC | CAREFUL | OFlags::NOFOLLOW;
    let file = checked(path, || Ok(rustix::fs::open(path, flags, Mode::from_raw_mode(mode))?.into()))?;
    if fstat(&file)?.st_nlink > 1 {
        return Err(NotAFile { path: path.to_path_buf(), kind: "a file with another name elsewhere" }.into());
    }
    Ok(file)
}

/// Looks at what has the name before it opens that very thing: to open a device may already do something, such as start a
/// watchdog, and a configuration that a database's superuser writes names files that root reads.
fn open_with(path: &Path, access: OFlags, links: Links) -> io::Result<File> {
    let mut flags = OFlags::PATH | OFlags::CLOEXEC;
    flags.set(OFlags::NOFOLLOW, links == Links::Refuse);
    let handle = rustix::fs::open(path, flags, Mode::empty())?;
    let found = FileType::from_raw_mode(fstat(&handle)?.st_mode);
    if found != FileType::RegularFile {
        return Err(not_a_file(path, found).into());
    }
    let opened = format!("/proc/self/fd/{}", handle.as_raw_fd());
    let flags = access | OFlags::CLOEXEC | CAREFUL;
    checked(path, || Ok(rustix::fs::open(&opened, flags, Mode::empty())?.into()))
}

/// Opens a file by `open`, which must not wait, and makes sure that it is a regular one.
///
/// # Errors
/// [`NotAFile`] with `path`, which is for the message only.
pub(super) fn checked(path: &Path, open: impl Fn() -> io::Result<File>) -> io::Result<File> {
    let mut opened = open();
    for _ in 1..TRIES {
        if !matches!(&opened, Err(error) if error.kind() == io::ErrorKind::WouldBlock) {
            break;
        }
        std::thread::sleep(PAUSE);
        opened = open();
    }
    let file = opened.map_err(|error| refusal(path, error))?;
    match FileType::from_raw_mode(fstat(&file)?.st_mode) {
        FileType::RegularFile => Ok(file),
        other => Err(not_a_file(path, other).into()),
    }
}

/// Names the kind of what the kernel itself does not open.
fn refusal(path: &Path, error: io::Error) -> io::Error {
    let kind = match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::LOOP) => "a link",
        // A socket, a FIFO that nobody reads from, or a device without a driver.
        Some(Errno::NXIO) => "a socket, a FIFO or a device",
        _ => return error,
    };
    NotAFile { path: path.to_path_buf(), kind }.into()
}

fn not_a_file(path: &Path, found: FileType) -> NotAFile {
    let kind = match found {
        FileType::Fifo => "a FIFO",
        FileType::Directory => DIRECTORY,
        FileType::Socket => "a socket",
        FileType::Symlink => "a link",
        _ => "a device",
    };
    NotAFile { path: path.to_path_buf(), kind }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;
    use rustix::fs::{CWD, mknodat};
    use std::io::Read;

    fn plant(directory: &Path, kind: &str) -> PathBuf {
        let path = directory.join("planted");
        match kind {
            "FIFO" => mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap(),
            "socket" => drop(std::os::unix::net::UnixListener::bind(&path).unwrap()),
            "directory" => std::fs::create_dir(&path).unwrap(),
            "device" => std::os::unix::fs::symlink("/dev/null", &path).unwrap(),
            "link" => {
                std::fs::write(directory.join("other"), "theirs").unwrap();
                std::os::unix::fs::symlink("other", &path).unwrap();
            }
            "another name" => {
                std::fs::write(directory.join("other"), "theirs").unwrap();
                std::fs::hard_link(directory.join("other"), &path).unwrap();
            }
            _ => std::fs::write(&path, "ours").unwrap(),
        }
        path
    }

    #[rstest]
    #[case::fifo("FIFO", "is a FIFO, not a file")]
    #[case::socket("socket", "is a socket, not a file")]
    #[case::directory("directory", "is a directory, not a file")]
    #[case::device("device", "is a device, not a file")]
    fn what_is_no_file_is_refused_by_its_kind_at_once(#[case] kind: &str, #[case] words: &str) {
        let directory = tempfile::tempdir().unwrap();
        let path = plant(directory.path(), kind);
        for answer in [open_regular(&path, Links::Follow), open_value(&path)] {
            assert!(answer.unwrap_err().to_string().ends_with(words));
        }
        open_log(&path, 0o600).unwrap_err();
    }

    #[test]
    fn a_link_is_followed_only_where_a_person_named_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = plant(directory.path(), "link");

        let refused = open_regular(&path, Links::Refuse).unwrap_err();

        assert!(refused.to_string().ends_with("is a link, not a file"), "{refused}");
        let mut text = String::new();
        open_regular(&path, Links::Follow).unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "theirs");
    }

    #[rstest]
    #[case::link("link")]
    #[case::another_name("another name")]
    fn a_log_is_not_appended_to_a_file_of_another_name(#[case] kind: &str) {
        let directory = tempfile::tempdir().unwrap();
        open_log(&plant(directory.path(), kind), 0o600).unwrap_err();
        assert_eq!(std::fs::read(directory.path().join("other")).unwrap(), b"theirs");
    }

    #[test]
    fn a_pipe_that_was_given_open_is_read_to_its_end() {
        use std::io::Write;
        let (reader, mut writer) = io::pipe().unwrap();
        let path = PathBuf::from(format!("/dev/fd/{}", reader.as_raw_fd()));
        let writing = std::thread::spawn(move || {
            std::thread::sleep(PAUSE);
            writer.write_all(b"secret").unwrap();
        });

        let mut text = String::new();
        open_value(&path).unwrap().read_to_string(&mut text).unwrap();

        assert_eq!(text, "secret");
        writing.join().unwrap();
    }
}

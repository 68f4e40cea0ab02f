//! A name for the user that this runs as, where the system has none for its number.
//!
//! initdb refuses a number without a name, and so does a server that asks the operating system who comes in (auth.c,
//! `auth_peer()`); `docker run --user` or a Kubernetes `runAsUser` may well ask for one. `nss_wrapper`, where it is
//! installed, answers for these programs alone, as in docker-library's image for initdb and in Red Hat's for the server;
//! where it is not, the loader says that it ignores it, and they refuse in their own words.

use crate::sys::{OWN_DIRECTORY, ReadRoot, WriteRoot, effective_identity};
use std::ffi::OsString;
use std::io;
use std::path::Path;

/// The name that it gets.
pub const NAME: &str = "postgres";

/// More than a system's database of users has.
const MOST_BYTES: u64 = 1 << 20;

/// Writes the files that name the user, and returns the variables for a program to be told by; none where it has a name.
pub fn variables(root: &WriteRoot) -> io::Result<Vec<(&'static str, OsString)>> {
    let user = effective_identity();
    if user.name.is_some() {
        return Ok(Vec::new());
    }
    let own = Path::new(OWN_DIRECTORY);
    let (users, groups) = (own.join("passwd"), own.join("group"));
    let (uid, gid) = (user.uid, user.gid);
    // The first line that fits counts. The others are for those who come in, such as root.
    let of_system = |name: &str| {
        ReadRoot::open(Path::new("/etc"))
            .and_then(|root| root.read_text(name, MOST_BYTES))
            .ok()
            .flatten()
            .unwrap_or_default()
    };
    let text = format!("{NAME}:x:{uid}:{gid}::/:/bin/false\n{}", of_system("passwd"));
    root.write_durably(&users, text.as_bytes(), 0o600)?;
    let text = format!("{NAME}:x:{gid}:\n{}", of_system("group"));
    root.write_durably(&groups, text.as_bytes(), 0o600)?;
    Ok(vec![
        ("LD_PRELOAD", "libnss_wrapper.so".into()),
        ("NSS_WRAPPER_PASSWD", root.path().join(users).into()),
        ("NSS_WRAPPER_GROUP", root.path().join(groups).into()),
    ])
}

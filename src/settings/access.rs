//! Who may use a cluster, and with which password.

use super::{Secret, Settings};
use crate::error::{Failure, Kind};

/// The default password of the application role. Everybody knows it.
pub const KNOWN_PASSWORD: &str = "password";

/// Who may use a new cluster by its socket, without a password.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LocalAccess {
    /// The server's user and root, as any role.
    #[default]
    Peer,
    /// These, and every user of the machine as the application role.
    Trust,
}

impl Settings {
    /// Returns the password to try as the superuser of a cluster that asks for one. pgbox once gave the superuser the
    /// application role's, and a cluster keeps the one that it was made with.
    pub fn superuser_password_to_try(&self) -> &Secret {
        self.superuser_password.as_ref().unwrap_or(&self.application_password)
    }

    /// Returns the password that the application role is to have; `None`: none, so that no host can log in as it.
    ///
    /// Where only `POSTGRES_PASSWORD` was given, as for docker-library's image, a server that listens to others has no
    /// role with a password that everybody knows.
    ///
    /// # Errors
    /// [`Kind::Refused`] for that password on a server that listens to others.
    pub fn application_password_to_set(&self) -> Result<Option<&Secret>, Failure> {
        let password = &self.application_password;
        if password.reveal() != KNOWN_PASSWORD || !listens_to_others(&self.listen_addresses) {
            return Ok(Some(password));
        }
        if self.superuser_password.is_some() && !self.is_application_password_given {
            return Ok(None);
        }
        let message = format!(
            "cannot give the role '{}' the password that everybody knows, '{KNOWN_PASSWORD}': the server listens to other \
             machines (LISTEN_ADDRESSES is '{}')",
            self.application_role, self.listen_addresses
        );
        let hint = "set DATABASE_PASSWORD, or LISTEN_ADDRESSES=localhost. Nothing was changed.";
        Err(Failure::new(Kind::Refused, message).hint(hint))
    }
}

/// Says whether a server with these `listen_addresses` can be reached from other machines. A name that is not known to be
/// this machine's own counts as one that can.
pub fn listens_to_others(addresses: &str) -> bool {
    let is_of_this_machine = |address: &str| {
        address.is_empty()
            || address.eq_ignore_ascii_case("localhost")
            || address.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
    };
    !addresses.split(',').map(|address| address.trim().trim_matches('"')).all(is_of_this_machine)
}

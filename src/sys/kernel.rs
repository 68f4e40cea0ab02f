//! Which kernel this runs on.

/// The first two numbers of the kernel's version; `None` where they cannot be told from what it calls itself.
pub(super) fn kernel_version() -> Option<(u32, u32)> {
    parse(&rustix::system::uname().release().to_string_lossy())
}

fn parse(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|character: char| !character.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_told_from_what_follows_it() {
        assert_eq!(parse("6.1.0-18-amd64"), Some((6, 1)));
        assert_eq!(parse("5.15.153.1-microsoft-standard-WSL2"), Some((5, 15)));
        assert_eq!(parse("5.8-rc1"), Some((5, 8)));
        assert_eq!(parse("unknown"), None);
    }
}

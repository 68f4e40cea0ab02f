//! Whether a `pg_hba.conf` can be loaded: the server does not start on one that cannot, and says so only then.
//!
//! The rules are those of hba.c (`next_token()`, `parse_hba_line()`), as far as they need no network and no other file:
//! where a line may be good or bad, it counts as good, because a file that is called bad is put out of the way.

use super::MajorVersion;
use std::net::IpAddr;

/// What is wrong with a file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HbaError {
    /// It has no entry, so that nobody could connect; the server does not start on it.
    #[error("it has no entries")]
    NoEntries,
    /// It is no text.
    #[error("line {0} holds a zero byte")]
    NoText(usize),
    /// A line that the server would refuse.
    #[error("line {line}: {reason}")]
    Line {
        /// Its number, from 1.
        line: usize,
        /// Why, in the server's words.
        reason: &'static str,
    },
}

const METHODS: [&str; 15] = [
    "trust",
    "ident",
    "peer",
    "password",
    "gss",
    "sspi",
    "reject",
    "md5",
    "scram-sha-256",
    "pam",
    "bsd",
    "ldap",
    "cert",
    "radius",
    "oauth",
];

/// Checks the content of a `pg_hba.conf`.
///
/// # Errors
/// The first thing that would keep a server of that version from loading it.
pub fn check(content: &[u8], major: MajorVersion) -> Result<(), HbaError> {
    let mut has_entries = false;
    for (number, line) in logical_lines(content, major) {
        if line.contains(&0) {
            return Err(HbaError::NoText(number));
        }
        let line = String::from_utf8_lossy(&line);
        let fields = fields_of(&line);
        if fields.is_empty() {
            continue;
        }
        has_entries = true;
        check_entry(&fields, major).map_err(|reason| HbaError::Line { line: number, reason })?;
    }
    if has_entries { Ok(()) } else { Err(HbaError::NoEntries) }
}

/// The lines with their numbers; from 14 on a backslash at the end joins a line and the next.
fn logical_lines(content: &[u8], major: MajorVersion) -> Vec<(usize, Vec<u8>)> {
    let mut lines: Vec<(usize, Vec<u8>)> = Vec::new();
    let mut goes_on = false;
    for (index, line) in content.split(|byte| *byte == b'\n').enumerate() {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let joins_next = major.0 >= 14 && line.ends_with(b"\\");
        let line = if joins_next { line.strip_suffix(b"\\").unwrap_or(line) } else { line };
        match lines.last_mut() {
            Some((_, begun)) if goes_on => begun.extend_from_slice(line),
            _ => lines.push((index + 1, line.to_vec())),
        }
        goes_on = joins_next;
    }
    lines
}

/// One field: tokens with commas between.
type Field = Vec<String>;

fn fields_of(line: &str) -> Vec<Field> {
    let mut fields: Vec<Field> = Vec::new();
    let mut rest = line;
    let mut goes_on = false;
    while let Some((token, has_comma, left)) = next_token(rest) {
        match fields.last_mut() {
            Some(field) if goes_on => field.push(token),
            _ => fields.push(vec![token]),
        }
        (rest, goes_on) = (left, has_comma);
    }
    fields
}

/// The next token, whether a comma ends it, and what follows; `None` at the end of the line or a comment.
fn next_token(text: &str) -> Option<(String, bool, &str)> {
    let is_blank = |letter: char| matches!(letter, ' ' | '\t' | '\r');
    let text = text.trim_start_matches(|letter| is_blank(letter) || letter == ',');
    if text.is_empty() || text.starts_with('#') {
        return None;
    }
    let mut token = String::new();
    let (mut in_quotes, mut was_quote) = (false, false);
    for (index, letter) in text.char_indices() {
        let after = text.get(index + letter.len_utf8()..).unwrap_or_default();
        match letter {
            ',' if !in_quotes => return Some((token, true, after)),
            '#' if !in_quotes => return Some((token, false, "")),
            _ if is_blank(letter) && !in_quotes => return Some((token, false, after)),
            _ => {}
        }
        // Two quotes within quotes stand for one.
        if letter != '"' || was_quote {
            token.push(letter);
        }
        was_quote = in_quotes && letter == '"' && !was_quote;
        if letter == '"' {
            in_quotes = !in_quotes;
        }
    }
    Some((token, false, ""))
}

fn check_entry(fields: &[Field], major: MajorVersion) -> Result<(), &'static str> {
    let mut fields = fields.iter();
    let kind = only_token(fields.next(), "end-of-line before connection type")?;
    if major.0 >= 16 && matches!(kind, "include" | "include_if_exists" | "include_dir") {
        return Ok(());
    }
    let hosts = ["host", "hostssl", "hostnossl", "hostgssenc", "hostnogssenc"];
    let is_local = kind == "local";
    if !is_local && !hosts.contains(&kind) {
        return Err("invalid connection type");
    }
    fields.next().ok_or("end-of-line before database specification")?;
    fields.next().ok_or("end-of-line before role specification")?;
    if !is_local {
        let address = only_token(fields.next(), "end-of-line before IP address specification")?;
        match address_of(address)? {
            Address::Complete => {}
            Address::Unsure => return Ok(()),
            Address::NeedsMask(address) => {
                let mask = only_token(fields.next(), "end-of-line before netmask specification")?;
                check_mask(mask, address)?;
            }
        }
    }
    let method = only_token(fields.next(), "end-of-line before authentication method")?;
    check_method(method, kind)?;
    if fields.flatten().any(|option| !option.contains('=')) {
        return Err("authentication option not in name=value format");
    }
    Ok(())
}

fn only_token<'a>(field: Option<&'a Field>, missing: &'static str) -> Result<&'a str, &'static str> {
    match field.map(Vec::as_slice) {
        Some([token]) => Ok(token),
        Some(_) => Err("multiple values where one is expected"),
        None => Err(missing),
    }
}

enum Address {
    /// A name, a keyword, or an address with its mask.
    Complete,
    /// The mask is a field of its own.
    NeedsMask(IpAddr),
    /// `getaddrinfo()` knows forms of addresses that we do not (`127.1`, `fe80::1%eth0`).
    Unsure,
}

fn address_of(text: &str) -> Result<Address, &'static str> {
    let (host, mask) = match text.split_once('/') {
        Some((host, mask)) => (host, Some(mask)),
        None => (text, None),
    };
    let is_number_like = |letter: char| letter.is_ascii_hexdigit() || matches!(letter, '.' | ':' | 'x' | 'X');
    match (host.parse::<IpAddr>(), mask) {
        (Ok(address), None) => Ok(Address::NeedsMask(address)),
        (Ok(address), Some(mask)) => {
            let most = if address.is_ipv4() { 32 } else { 128 };
            let is_mask = mask.trim().parse::<u8>().is_ok_and(|bits| bits <= most);
            if is_mask { Ok(Address::Complete) } else { Err("invalid CIDR mask in address") }
        }
        (Err(_), _) if host.contains('%') || host.chars().all(is_number_like) => Ok(Address::Unsure),
        (Err(_), None) => Ok(Address::Complete),
        (Err(_), Some(_)) => Err("specifying both host name and CIDR mask is invalid"),
    }
}

fn check_mask(mask: &str, address: IpAddr) -> Result<(), &'static str> {
    match mask.parse::<IpAddr>() {
        Ok(mask) if mask.is_ipv4() == address.is_ipv4() => Ok(()),
        Ok(_) => Err("IP address and mask do not match"),
        // A missing mask leaves the method in its place.
        Err(_) if METHODS.contains(&mask) => Err("invalid IP mask"),
        Err(_) => Ok(()),
    }
}

fn check_method(method: &str, kind: &str) -> Result<(), &'static str> {
    let is_local = kind == "local";
    match method {
        _ if !METHODS.contains(&method) => Err("invalid authentication method"),
        "gss" | "sspi" if is_local => {
            Err("authentication over local sockets is not supported by that method")
        }
        "peer" if !is_local => Err("peer authentication is only supported on local sockets"),
        "cert" if kind != "hostssl" => Err("cert authentication is only supported on hostssl connections"),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const V15: MajorVersion = MajorVersion(15);

    #[test]
    fn what_initdb_writes_and_what_people_write_can_be_loaded() {
        for line in [
            "local all all trust",
            "# a comment\nhost all all 127.0.0.1/32 scram-sha-256",
            "host\tall,\"my db\" +group,@users ::1/128 md5 # why",
            "host all all 10.0.0.1 255.255.255.0 reject",
            "hostssl all all all cert clientcert=verify-full map=\"a b\"",
            "hostnossl replication all samenet scram-sha-256",
            "host all all .example.com ident map=x",
            "host all all 127.1 trust",
            "host all all fe80::1%eth0/64 trust",
            "host all all \\\n 0.0.0.0/0 \\\n md5\r",
            "local \"a \"\"b\"\" c\" all peer",
        ] {
            assert_eq!(check(line.as_bytes(), V15), Ok(()), "{line}");
        }
        assert_eq!(check(b"include_if_exists more.conf", MajorVersion(16)), Ok(()));
    }

    #[test]
    fn what_the_server_would_refuse_is_told_with_its_line() {
        for (text, line) in [
            ("local all all trust\nnonsense", 2),
            ("LOCAL all all trust", 1),
            ("local all", 1),
            ("local all all", 1),
            ("local all all trust,md5", 1),
            ("local all all secret", 1),
            ("local all all trust option", 1),
            ("host all all 127.0.0.1 trust", 1),
            ("host all all 127.0.0.1/33 trust", 1),
            ("host all all example.com/32 trust", 1),
            ("host all all 127.0.0.1/32 peer", 1),
            ("host all all all cert", 1),
            ("include more.conf", 1),
        ] {
            assert!(
                matches!(check(text.as_bytes(), V15), Err(HbaError::Line { line: found, .. }) if found == line),
                "{text}"
            );
        }
    }

    #[test]
    fn an_empty_file_and_one_that_is_no_text_are_refused() {
        assert_eq!(check(b"", V15), Err(HbaError::NoEntries));
        assert_eq!(check(b"# nothing\n\n", V15), Err(HbaError::NoEntries));
        assert_eq!(check(b"local all all trust\n\0\0\0", V15), Err(HbaError::NoText(2)));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>, text: String, similar in "(local|host|\"|,|#|all|[0-9./: \\\\\n])*") {
            let _ = (check(&bytes, V15), check(text.as_bytes(), V15), check(similar.as_bytes(), V15));
        }
    }
}

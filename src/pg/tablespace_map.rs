//! The tablespace map, `tablespace_map`: where a base backup's tablespaces are, beside its label. The server makes a link
//! for each before it replays.
//!
//! Source: xlogrecovery.c, `read_tablespace_map()`, whose every complaint ends the server with a FATAL.

/// The name of the file.
pub const TABLESPACE_MAP: &str = "tablespace_map";
/// A line has a number and a path (`MAXPGPATH`).
pub const LIMIT_BYTES: u64 = 1 << 20;

/// A tablespace of the map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MappedTablespace {
    /// Its number, the name of its link.
    pub oid: u32,
    /// Where the link is to lead.
    pub target: Vec<u8>,
}

/// Why the server does not take a map.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TablespaceMapError {
    /// A line is not a number, a space and a path.
    #[error("line {0} is not the number of a tablespace and a path")]
    Line(usize),
    /// The last line is cut short.
    #[error("its last line is cut short")]
    Unfinished,
}

/// Reads a map as the server does: a line feed or a carriage return ends a line, unless a backslash is before it.
///
/// # Errors
/// [`TablespaceMapError`], for what keeps the server from starting.
pub fn parse(bytes: &[u8]) -> Result<Vec<MappedTablespace>, TablespaceMapError> {
    let (mut tablespaces, mut line) = (Vec::new(), Vec::new());
    let (mut number, mut is_escaped) = (1, false);
    for byte in bytes {
        match byte {
            b'\n' | b'\r' if !is_escaped => {
                if line.is_empty() {
                    continue;
                }
                tablespaces.push(parse_line(&line).ok_or(TablespaceMapError::Line(number))?);
                line.clear();
                number += 1;
            }
            b'\\' if !is_escaped => is_escaped = true,
            byte => {
                line.push(*byte);
                is_escaped = false;
            }
        }
    }
    if line.is_empty() && !is_escaped { Ok(tablespaces) } else { Err(TablespaceMapError::Unfinished) }
}

fn parse_line(line: &[u8]) -> Option<MappedTablespace> {
    let space = line.iter().position(|byte| *byte == b' ')?;
    let (number, target) = (line.get(..space)?, line.get(space + 1..)?);
    if target.is_empty() || !number.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let oid = std::str::from_utf8(number).ok()?.parse().ok()?;
    Some(MappedTablespace { oid, target: target.to_vec() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rstest::rstest;

    #[rstest]
    #[case::empty("", &[])]
    #[case::one("16400 /disk\n", &[(16400, "/disk")])]
    #[case::two("16400 /disk\n16401 /other disk\n", &[(16400, "/disk"), (16401, "/other disk")])]
    #[case::lines_that_end_as_on_windows("16400 /disk\r\n16401 /other\r\n", &[(16400, "/disk"), (16401, "/other")])]
    #[case::a_name_with_a_line_feed("16400 /a\\\nb\n", &[(16400, "/a\nb")])]
    #[case::a_name_with_a_backslash("16400 /a\\\\b\n", &[(16400, "/a\\b")])]
    fn a_map_is_read_as_the_server_reads_it(#[case] text: &str, #[case] expected: &[(u32, &str)]) {
        let found = parse(text.as_bytes()).unwrap();
        let found: Vec<_> =
            found.iter().map(|one| (one.oid, std::str::from_utf8(&one.target).unwrap())).collect();
        assert_eq!(found, expected);
    }

    #[rstest]
    #[case::cut_in_the_path("16400 /disk\n16401 /oth", TablespaceMapError::Unfinished)]
    #[case::cut_after_a_backslash("16400 /a\\", TablespaceMapError::Unfinished)]
    #[case::no_path("16400\n", TablespaceMapError::Line(1))]
    #[case::an_empty_path("16400 /disk\n16401 \n", TablespaceMapError::Line(2))]
    #[case::no_number("disk /disk\n", TablespaceMapError::Line(1))]
    #[case::zeros("\0\0\0\0", TablespaceMapError::Unfinished)]
    fn what_the_server_refuses_is_refused(#[case] text: &str, #[case] expected: TablespaceMapError) {
        assert_eq!(parse(text.as_bytes()), Err(expected));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_are_read_without_a_panic(bytes: Vec<u8>) {
            let _ = parse(&bytes);
        }
    }
}

//! Newtypes for PostgreSQL's numbers, so that an LSN, an OID and a block number cannot be confused.
//!
//! Their texts are those that PostgreSQL prints. In JSON an LSN is that text, and so is a system identifier:
//! it exceeds 2^53, so that a JSON number would lose its last digits in many readers.

use std::fmt;
use std::num::ParseIntError;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A position in the WAL, in bytes since the cluster was made. Its text is `0/3000028`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

impl Lsn {
    /// The LSN that stands for "none": no WAL record starts at it (PostgreSQL: `InvalidXLogRecPtr`).
    pub const INVALID: Self = Self(0);

    /// Says whether this is an LSN at all, that is, not [`Lsn::INVALID`].
    pub fn is_valid(self) -> bool {
        self != Self::INVALID
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

/// Reads what `pg_lsn` reads: two parts of one to eight hexadecimal digits, of either case, zero-padded or
/// not.
impl FromStr for Lsn {
    type Err = ParseLsnError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (high, low) = text.split_once('/').ok_or(ParseLsnError)?;
        let high = parse_lsn_half(high).ok_or(ParseLsnError)?;
        let low = parse_lsn_half(low).ok_or(ParseLsnError)?;
        Ok(Self((u64::from(high) << 32) | u64::from(low)))
    }
}

/// Reads one half of an LSN. The digits are checked first because `from_str_radix` also takes a sign.
fn parse_lsn_half(text: &str) -> Option<u32> {
    let is_hexadecimal = text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if !is_hexadecimal || text.len() > 8 {
        return None;
    }
    u32::from_str_radix(text, 16).ok()
}

/// A text that is no LSN.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an LSN: expected two hexadecimal numbers with a slash between, such as 0/3000028")]
pub struct ParseLsnError;

impl Serialize for Lsn {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Lsn {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserialize_text(deserializer)
    }
}

/// The number that initdb gives a cluster, kept by all its backups and WAL, so that foreign files are
/// noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SystemIdentifier(pub u64);

impl fmt::Display for SystemIdentifier {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

impl FromStr for SystemIdentifier {
    type Err = ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

impl Serialize for SystemIdentifier {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for SystemIdentifier {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserialize_text(deserializer)
    }
}

/// A timeline: it grows by one at each promotion or end of point-in-time recovery, and starts at 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TimelineId(pub u32);

impl fmt::Display for TimelineId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// The number of a block within a relation fork, counted across all of its segment files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct BlockNumber(pub u32);

impl fmt::Display for BlockNumber {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// An object identifier, also that of a relation's file (its *relfilenode*).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Oid(pub u32);

impl Oid {
    /// The default tablespace, whose directories are in `base` (`pg_tablespace.dat`, `DEFAULTTABLESPACE_OID`).
    pub const DEFAULT_TABLESPACE: Self = Self(1663);
    /// The tablespace of the shared relations, `global` (`pg_tablespace.dat`, `GLOBALTABLESPACE_OID`).
    pub const GLOBAL_TABLESPACE: Self = Self(1664);
}

impl fmt::Display for Oid {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// A major version of PostgreSQL, such as 15.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct MajorVersion(pub u32);

impl fmt::Display for MajorVersion {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// Deserialises a value from the text that its `Display` writes.
fn deserialize_text<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err: fmt::Display>,
{
    String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_lsn_reads_as_postgresql_prints_it() {
        assert_eq!(Lsn(0x0300_0028).to_string(), "0/3000028");
        assert_eq!(Lsn(0x0001_6B37_4D84_8000).to_string(), "16B37/4D848000");
        assert_eq!(Lsn::INVALID.to_string(), "0/0");
    }

    #[test]
    fn an_lsn_is_read_with_or_without_padding_and_in_either_case() {
        assert_eq!("0/3000028".parse(), Ok(Lsn(0x0300_0028)));
        assert_eq!("0/03000028".parse(), Ok(Lsn(0x0300_0028)));
        assert_eq!("a/ff".parse(), Ok(Lsn(0xA_0000_00FF)));
    }

    #[test]
    fn what_is_not_an_lsn_is_refused() {
        for text in ["", "/", "0", "0/", "/0", "0/+1", "0/-1", "0/123456789", "0/G", " 0/1", "0/1\n", "0/1/2"]
        {
            assert_eq!(text.parse::<Lsn>(), Err(ParseLsnError), "{text:?}");
        }
    }

    #[test]
    fn only_zero_is_the_invalid_lsn() {
        assert!(!Lsn::INVALID.is_valid());
        assert!(Lsn(1).is_valid());
    }

    #[test]
    fn in_json_lsn_and_system_identifier_are_texts_and_the_rest_are_numbers() {
        let values =
            (Lsn(0x0300_0028), SystemIdentifier(u64::MAX), TimelineId(2), MajorVersion(15), Oid(1262));

        let json = serde_json::to_string(&values).unwrap();

        assert_eq!(json, r#"["0/3000028","18446744073709551615",2,15,1262]"#);
        assert_eq!(values, serde_json::from_str(&json).unwrap());
    }

    #[test]
    fn json_of_another_kind_is_an_error() {
        assert!(serde_json::from_str::<Lsn>("50331688").is_err());
        assert!(serde_json::from_str::<Lsn>(r#""three""#).is_err());
        assert!(serde_json::from_str::<SystemIdentifier>("7710213973280038857").is_err());
    }

    proptest! {
        #[test]
        fn every_lsn_survives_its_text(position: u64) {
            prop_assert_eq!(Lsn(position).to_string().parse(), Ok(Lsn(position)));
        }

        #[test]
        fn arbitrary_text_never_panics(text: String) {
            let _ = text.parse::<Lsn>();
            let _ = text.parse::<SystemIdentifier>();
        }
    }
}

//! The backup manifest, `backup_manifest`: what `pg_basebackup` wrote, file by file, with sizes and checksums.
//!
//! It is JSON, one file a line, with a checksum of itself at the end (PostgreSQL: `backup_manifest.c`,
//! `parse_manifest.c`). Both ways are here, so that `pg_verifybackup` can check what we write.

use std::fmt::Write as _;

use serde::Deserialize;
use sha2::{Digest, Sha224, Sha256, Sha384, Sha512};

use super::{Lsn, SystemIdentifier, TimelineId};

/// Where the manifest is, in a base backup.
pub const MANIFEST_FILE: &str = "backup_manifest";
const CHECKSUM_KEY: &str = "\"Manifest-Checksum\"";

/// How the files of a backup are summed up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChecksumAlgorithm {
    /// CRC-32C, the default.
    Crc32c,
    /// SHA-224.
    Sha224,
    /// SHA-256.
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
}

impl ChecksumAlgorithm {
    fn from_name(name: &str) -> Option<Self> {
        let known = [
            ("CRC32C", Self::Crc32c),
            ("SHA224", Self::Sha224),
            ("SHA256", Self::Sha256),
            ("SHA384", Self::Sha384),
            ("SHA512", Self::Sha512),
        ];
        known.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, algorithm)| *algorithm)
    }
}

/// A checksum that is being computed.
#[derive(Clone, Debug)]
pub enum Checksum {
    /// CRC-32C.
    Crc32c(u32),
    /// SHA-224.
    Sha224(Sha224),
    /// SHA-256.
    Sha256(Sha256),
    /// SHA-384.
    Sha384(Sha384),
    /// SHA-512.
    Sha512(Sha512),
}

impl Checksum {
    /// The checksum of nothing so far.
    pub fn new(algorithm: ChecksumAlgorithm) -> Self {
        match algorithm {
            ChecksumAlgorithm::Crc32c => Self::Crc32c(0),
            ChecksumAlgorithm::Sha224 => Self::Sha224(Sha224::new()),
            ChecksumAlgorithm::Sha256 => Self::Sha256(Sha256::new()),
            ChecksumAlgorithm::Sha384 => Self::Sha384(Sha384::new()),
            ChecksumAlgorithm::Sha512 => Self::Sha512(Sha512::new()),
        }
    }

    /// Adds the bytes that follow.
    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Crc32c(crc) => *crc = crc32c::crc32c_append(*crc, bytes),
            Self::Sha224(hasher) => hasher.update(bytes),
            Self::Sha256(hasher) => hasher.update(bytes),
            Self::Sha384(hasher) => hasher.update(bytes),
            Self::Sha512(hasher) => hasher.update(bytes),
        }
    }

    /// The checksum as a manifest has it, in hexadecimal. That of a CRC is in the byte order of the machine, which
    /// is little-endian wherever we run (PostgreSQL: `pg_checksum_final()`).
    pub fn finish(self) -> String {
        match self {
            Self::Crc32c(crc) => hexadecimal(&crc.to_le_bytes()),
            Self::Sha224(hasher) => hexadecimal(&hasher.finalize()),
            Self::Sha256(hasher) => hexadecimal(&hasher.finalize()),
            Self::Sha384(hasher) => hexadecimal(&hasher.finalize()),
            Self::Sha512(hasher) => hexadecimal(&hasher.finalize()),
        }
    }
}

/// Bytes as lower-case hexadecimal digits, as checksums are written.
pub fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string never fails.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// One file of a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestFile {
    /// Its path below the data directory, as bytes.
    pub path: Vec<u8>,
    /// Its length.
    pub size_bytes: u64,
    /// How it was summed up, and the sum in hexadecimal; `None` where none was wanted.
    pub checksum: Option<(ChecksumAlgorithm, String)>,
}

/// The content of a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackupManifest {
    /// The cluster; only since 17.
    pub system_identifier: Option<SystemIdentifier>,
    /// All files but those of `pg_wal` and the manifest itself.
    pub files: Vec<ManifestFile>,
}

/// Why a manifest cannot be believed.
#[derive(Debug, thiserror::Error)]
pub enum BackupManifestError {
    /// It does not end with its own checksum.
    #[error("backup_manifest is cut short: it has no checksum of its own")]
    Cut,
    /// Its own checksum is another one.
    #[error("backup_manifest is damaged: its own checksum does not match what it says")]
    WrongChecksum,
    /// It is no manifest.
    #[error("backup_manifest is no manifest: {0}")]
    Json(#[from] serde_json::Error),
    /// It is of a version that is not known here.
    #[error("backup_manifest has version {0}, which is not known")]
    UnknownVersion(u64),
    /// A checksum is of a kind that is not known here.
    #[error("backup_manifest has checksums of the kind {0:?}, which is not known")]
    UnknownAlgorithm(String),
    /// A file in it has no name, or one that is not written as bytes are.
    #[error("backup_manifest has a file without a name: '{0}'")]
    Name(String),
}

#[derive(Deserialize)]
struct Document {
    #[serde(rename = "PostgreSQL-Backup-Manifest-Version")]
    version: u64,
    #[serde(rename = "System-Identifier")]
    system_identifier: Option<u64>,
    #[serde(rename = "Files")]
    files: Vec<DocumentFile>,
}

#[derive(Deserialize)]
struct DocumentFile {
    #[serde(rename = "Path")]
    path: Option<String>,
    #[serde(rename = "Encoded-Path")]
    encoded_path: Option<String>,
    #[serde(rename = "Size")]
    size_bytes: u64,
    #[serde(rename = "Checksum-Algorithm")]
    algorithm: Option<String>,
    #[serde(rename = "Checksum")]
    checksum: Option<String>,
}

impl BackupManifest {
    /// Reads a manifest and checks it by its own checksum: SHA-256 of all before its last line.
    ///
    /// # Errors
    /// [`BackupManifestError`], of any kind.
    pub fn parse(bytes: &[u8]) -> Result<Self, BackupManifestError> {
        let body = bytes.strip_suffix(b"\n").ok_or(BackupManifestError::Cut)?;
        let line_at = body.iter().rposition(|byte| *byte == b'\n').ok_or(BackupManifestError::Cut)? + 1;
        let (covered, line) = body.split_at_checked(line_at).ok_or(BackupManifestError::Cut)?;
        let line = String::from_utf8_lossy(line);
        let named = line.strip_prefix(CHECKSUM_KEY).and_then(|rest| rest.split('"').nth(1));
        let named = named.ok_or(BackupManifestError::Cut)?;
        if !named.eq_ignore_ascii_case(&hexadecimal(&Sha256::digest(covered))) {
            return Err(BackupManifestError::WrongChecksum);
        }
        let document: Document = serde_json::from_slice(bytes)?;
        if !matches!(document.version, 1 | 2) {
            return Err(BackupManifestError::UnknownVersion(document.version));
        }
        let files = document.files.into_iter().map(DocumentFile::checked).collect::<Result<_, _>>()?;
        Ok(Self { system_identifier: document.system_identifier.map(SystemIdentifier), files })
    }
}

impl DocumentFile {
    fn checked(self) -> Result<ManifestFile, BackupManifestError> {
        let encoded = self.encoded_path.unwrap_or_default();
        let path = self.path.map(String::into_bytes).or_else(|| from_hexadecimal(&encoded));
        let path = path.ok_or(BackupManifestError::Name(encoded))?;
        let checksum = match (self.algorithm, self.checksum) {
            (Some(name), Some(checksum)) => {
                let algorithm = ChecksumAlgorithm::from_name(&name);
                Some((algorithm.ok_or(BackupManifestError::UnknownAlgorithm(name))?, checksum))
            }
            _ => None,
        };
        Ok(ManifestFile { path, size_bytes: self.size_bytes, checksum })
    }
}

fn from_hexadecimal(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).ok());
    let bytes = digits.map(|pair| u8::from_str_radix(pair.filter(|pair| pair.len() == 2)?, 16).ok());
    bytes.collect::<Option<Vec<u8>>>().filter(|bytes| !bytes.is_empty())
}

/// Writes a manifest of version 1, which `pg_verifybackup` of 13 and later reads.
#[derive(Debug)]
pub struct ManifestWriter {
    text: String,
    separator: &'static str,
}

impl Default for ManifestWriter {
    fn default() -> Self {
        let text = "{ \"PostgreSQL-Backup-Manifest-Version\": 1,\n\"Files\": [".to_owned();
        Self { text, separator: "\n" }
    }
}

impl ManifestWriter {
    /// Adds a file with its CRC. A path that is not UTF-8 is written in hexadecimal (`backup_manifest.c`,
    /// `AddFileToBackupManifest()`). `modified` is a time as `2026-11-21 12:00:00 GMT`.
    ///
    /// # Errors
    /// If the path cannot be written as JSON.
    pub fn add(
        &mut self,
        path: &[u8],
        size_bytes: u64,
        modified: &str,
        crc: &str,
    ) -> Result<(), serde_json::Error> {
        let path = match std::str::from_utf8(path) {
            Ok(path) => format!("\"Path\": {}", serde_json::to_string(path)?),
            Err(_) => format!("\"Encoded-Path\": \"{}\"", hexadecimal(path)),
        };
        self.text.push_str(self.separator);
        self.separator = ",\n";
        let _ = write!(
            self.text,
            "{{ {path}, \"Size\": {size_bytes}, \"Last-Modified\": \"{modified}\", \
             \"Checksum-Algorithm\": \"CRC32C\", \"Checksum\": \"{crc}\" }}"
        );
        Ok(())
    }

    /// The whole manifest, with the stretch of WAL that the backup needs, where there is one.
    pub fn finish(mut self, wal: Option<(TimelineId, Lsn, Lsn)>) -> String {
        self.text.push_str("\n],\n\"WAL-Ranges\": [\n");
        if let Some((timeline, start, end)) = wal {
            let _ = writeln!(
                self.text,
                "{{ \"Timeline\": {timeline}, \"Start-LSN\": \"{start}\", \"End-LSN\": \"{end}\" }}"
            );
        }
        self.text.push_str("],\n");
        let checksum = hexadecimal(&Sha256::digest(&self.text));
        let _ = writeln!(self.text, "{CHECKSUM_KEY}: \"{checksum}\"}}");
        self.text
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn manifest() -> String {
        let mut writer = ManifestWriter::default();
        writer.add(b"backup_label", 9, "2026-11-21 12:00:00 GMT", "839206e3").unwrap();
        writer.add(b"base/a \"b\"", 0, "2026-11-21 12:00:00 GMT", "00000000").unwrap();
        writer.finish(Some((TimelineId(1), Lsn(0x0200_0028), Lsn(0x0200_0100))))
    }

    #[test]
    fn a_manifest_survives_its_text() {
        let parsed = BackupManifest::parse(manifest().as_bytes()).unwrap();

        assert_eq!(parsed.files.len(), 2);
        assert_eq!(parsed.files[1].path, b"base/a \"b\"");
        assert_eq!(parsed.files[0].checksum, Some((ChecksumAlgorithm::Crc32c, "839206e3".to_owned())));
    }

    #[test]
    fn a_path_in_another_encoding_survives_the_text() {
        let mut writer = ManifestWriter::default();
        writer.add(b"caf\xe9.csv", 4, "2026-11-21 12:00:00 GMT", "839206e3").unwrap();
        let text = writer.finish(None);

        assert!(text.contains("\"Encoded-Path\": \"636166e92e637376\""), "{text}");
        assert_eq!(BackupManifest::parse(text.as_bytes()).unwrap().files[0].path, b"caf\xe9.csv");
    }

    #[test]
    fn a_crc_is_written_as_postgresql_writes_it() {
        // The check value of CRC-32C is E3069283.
        let mut checksum = Checksum::new(ChecksumAlgorithm::Crc32c);
        checksum.update(b"12345");
        checksum.update(b"6789");
        assert_eq!(checksum.finish(), "839206e3");
    }

    #[test]
    fn a_manifest_that_was_cut_or_changed_is_refused() {
        let text = manifest();
        for length in 0..text.len() {
            assert!(BackupManifest::parse(&text.as_bytes()[..length]).is_err(), "length {length}");
        }
        let changed = text.replace("\"Size\": 9", "\"Size\": 8");
        assert!(matches!(BackupManifest::parse(changed.as_bytes()), Err(BackupManifestError::WrongChecksum)));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>, line in "[\"a-zA-Z:{} \\-]{0,60}") {
            let _ = BackupManifest::parse(&bytes);
            let _ = BackupManifest::parse(format!("\n\"Manifest-Checksum\"{line}\n").as_bytes());
        }
    }
}

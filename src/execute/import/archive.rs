//! Reads tar archives, entry by entry, and believes none of their names.
//!
//! Long names are read here and not by the tar library, which would take as much memory as an archive says.

use std::io::{self, BufRead, BufReader, Read};

use anyhow::{Context, bail};
use flate2::bufread::MultiGzDecoder;
use tar::{Archive, Entry, EntryType};

use super::intake::{Found, Intake, refused};
use crate::sys::text_of;

/// A longer name would not be one of a cluster's.
const LONGEST_NAME_BYTES: u64 = 4096;
/// What pax says of one entry is far shorter.
const LONGEST_PAX_BYTES: u64 = 64 * 1024;
/// The mark at the end of an archive: two blocks of zeros.
const END_MARK_BYTES: u64 = 1024;

/// The first bytes of what can be told apart.
const MAGICS: [(&[u8], Container); 5] = [
    (&[0x1F, 0x8B], Container::Gzip),
    (&[0x28, 0xB5, 0x2F, 0xFD], Container::Zstd),
    (&[0x04, 0x22, 0x4D, 0x18], Container::Other("lz4")),
    (b"BZh", Container::Other("bzip2")),
    (&[0xFD, b'7', b'z', b'X', b'Z'], Container::Other("xz")),
];

#[derive(Clone, Copy)]
enum Container {
    Plain,
    Gzip,
    Zstd,
    Other(&'static str),
}

/// Reads an archive whose entries belong below `prefix`, which is empty for the data directory itself.
pub(super) fn read_archive(input: impl Read, prefix: &str, intake: &mut Intake<'_>) -> anyhow::Result<()> {
    let mut input = BufReader::with_capacity(256 * 1024, input);
    let start = input.fill_buf().context("read the archive")?;
    let found = MAGICS.iter().find(|(magic, _)| start.starts_with(magic));
    match found.map_or(Container::Plain, |(_, container)| *container) {
        Container::Plain => read_tar(input, prefix, intake),
        Container::Gzip => read_tar(MultiGzDecoder::new(input), prefix, intake),
        Container::Zstd => {
            read_tar(zstd::Decoder::with_buffer(input).context("read the archive")?, prefix, intake)
        }
        Container::Other(name) => Err(refused(format!("it is compressed with {name}"))
            .hint(format!("decompress it with {name} first; nothing was imported"))
            .into()),
    }
}

/// Counts the zeros that were read last, to tell an archive that ends from one that is cut off.
struct EndMark<R> {
    input: R,
    zeros: u64,
}

impl<R: Read> Read for EndMark<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.input.read(into)?;
        let bytes = into.get(..count).unwrap_or_default();
        match bytes.iter().rposition(|byte| *byte != 0) {
            Some(last) => self.zeros = (count - last - 1) as u64,
            None => self.zeros += count as u64,
        }
        Ok(count)
    }
}

/// What earlier entries said of the next one.
#[derive(Default)]
struct Announced {
    name: Option<Vec<u8>>,
    target: Option<Vec<u8>>,
}

fn read_tar(input: impl Read, prefix: &str, intake: &mut Intake<'_>) -> anyhow::Result<()> {
    let mut archive = Archive::new(EndMark { input, zeros: 0 });
    let mut announced = Announced::default();
    for entry in archive.entries().map_err(unreadable)?.raw(true) {
        let mut entry = entry.map_err(unreadable)?;
        match entry.header().entry_type() {
            EntryType::GNULongName => announced.name = Some(read_name(&mut entry)?),
            EntryType::GNULongLink => announced.target = Some(read_name(&mut entry)?),
            EntryType::XHeader => announced.read_pax(&mut entry)?,
            // What pax says of all entries is about times and comments.
            EntryType::XGlobalHeader => {}
            kind => read_entry(&mut entry, kind, prefix, &std::mem::take(&mut announced), intake)?,
        }
    }
    finish(archive.into_inner())
}

/// What could not be read as an archive. The tar library quotes what it found in place of one: that may be a file of
/// passwords, of which root was given the name by mistake.
fn unreadable(error: io::Error) -> anyhow::Error {
    let is_of_system = error.raw_os_error().is_some();
    let reason =
        if is_of_system { error } else { io::Error::new(error.kind(), "nothing in it is quoted here") };
    anyhow::Error::new(reason).context("read the archive, which is cut short, or no tar archive")
}

/// Reads to the very end, where the compression has its checksum.
fn finish<R: Read>(mut rest: EndMark<R>) -> anyhow::Result<()> {
    io::copy(&mut rest, &mut io::sink()).context("read the end of the archive")?;
    if rest.zeros < END_MARK_BYTES {
        bail!("the archive is cut short, or is more than one: it does not end with the mark of an end");
    }
    Ok(())
}

fn read_name(entry: &mut impl Read) -> anyhow::Result<Vec<u8>> {
    let mut name = Vec::new();
    entry.take(LONGEST_NAME_BYTES + 1).read_to_end(&mut name).context("read the archive")?;
    if name.len() as u64 > LONGEST_NAME_BYTES {
        return Err(refused("it has a name of more than 4,096 bytes").into());
    }
    // It ends with a zero byte.
    name.truncate(name.iter().position(|byte| *byte == 0).unwrap_or(name.len()));
    Ok(name)
}

impl Announced {
    /// Records are `LENGTH KEY=VALUE`, each with a line feed that its length counts, too.
    fn read_pax(&mut self, entry: &mut impl Read) -> anyhow::Result<()> {
        let mut bytes = Vec::new();
        entry.take(LONGEST_PAX_BYTES + 1).read_to_end(&mut bytes).context("read the archive")?;
        let malformed = || refused("it has an extended header that makes no sense");
        if bytes.len() as u64 > LONGEST_PAX_BYTES {
            return Err(malformed().into());
        }
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let space = rest.iter().position(|byte| *byte == b' ').ok_or_else(malformed)?;
            let (digits, _) = rest.split_at_checked(space).ok_or_else(malformed)?;
            let length: usize =
                std::str::from_utf8(digits).ok().and_then(|text| text.parse().ok()).ok_or_else(malformed)?;
            let (record, after) = rest.split_at_checked(length).ok_or_else(malformed)?;
            let record = record.get(space + 1..).and_then(|record| record.strip_suffix(b"\n"));
            self.note(record.ok_or_else(malformed)?)?;
            rest = after;
        }
        Ok(())
    }

    fn note(&mut self, record: &[u8]) -> anyhow::Result<()> {
        let equals = record.iter().position(|byte| *byte == b'=').unwrap_or(record.len());
        let (key, value) = record.split_at_checked(equals).unwrap_or_default();
        let value = value.get(1..).unwrap_or_default().to_vec();
        match key {
            b"path" => self.name = Some(value),
            b"linkpath" => self.target = Some(value),
            b"size" => return Err(refused("it has a file that is too large for a plain tar header").into()),
            key if key.starts_with(b"GNU.sparse") => return Err(refused("it has a sparse file").into()),
            _ => {}
        }
        Ok(())
    }
}

fn read_entry<R: Read>(
    entry: &mut Entry<'_, R>,
    kind: EntryType,
    prefix: &str,
    announced: &Announced,
    intake: &mut Intake<'_>,
) -> anyhow::Result<()> {
    let header = entry.header();
    let name = match &announced.name {
        Some(name) => text_of(name),
        None => text_of(&header.path_bytes()),
    };
    let name = name.strip_prefix("./").unwrap_or(&name);
    let path = name.strip_suffix('/').unwrap_or(name);
    if matches!(path, "" | ".") && kind == EntryType::Directory {
        return Ok(());
    }
    let path = if prefix.is_empty() { path.to_owned() } else { format!("{prefix}/{path}") };
    let found = Found {
        path,
        mode: header.mode().map_err(unreadable)? & 0o777,
        modified_ns: i64::try_from(header.mtime().map_err(unreadable)?)
            .unwrap_or_default()
            .saturating_mul(1_000_000_000),
    };
    match kind {
        EntryType::Regular => {
            let size_bytes = header.entry_size().map_err(unreadable)?;
            intake.add_file(&found, size_bytes, entry)
        }
        EntryType::Directory => intake.add_directory(&found),
        EntryType::Symlink => {
            let target = match &announced.target {
                Some(target) => target.clone(),
                None => header.link_name_bytes().unwrap_or_default().into_owned(),
            };
            intake.add_link(found, text_of(&target))
        }
        EntryType::Link => Err(refused(format!("'{}' is a hard link", found.path)).into()),
        EntryType::GNUSparse => Err(refused(format!("'{}' is a sparse file", found.path)).into()),
        _ => Err(refused(format!("'{}' is no file, directory or symbolic link", found.path)).into()),
    }
}

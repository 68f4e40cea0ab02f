//! How a bundle is compressed: any program can read it again, and all cores write it.
//!
//! A gzip file may be made of many members, one after the other (RFC 1952, 2.2), so each core compresses blocks of
//! its own, as `pigz --independent` does; the refused alternative, one stream, takes four times as long on four
//! cores. zstd brings its own threads.

use std::fmt;
use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::writing::Measured;

/// What one core compresses at once: large enough that the members' headers and fresh starts cost nothing.
const BLOCK_SIZE_BYTES: usize = 1024 * 1024;
const ZSTD_LEVEL: i32 = 3;

/// The format of a bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum BundleFormat {
    /// `.tar`.
    Plain,
    /// `.tar.gz`.
    Gzip,
    /// `.tar.zst`.
    Zstd,
}

impl BundleFormat {
    const ENDINGS: [(&'static str, Self); 5] = [
        (".tar.gz", Self::Gzip),
        (".tgz", Self::Gzip),
        (".tar.zst", Self::Zstd),
        (".tzst", Self::Zstd),
        (".tar", Self::Plain),
    ];

    /// The format that a file's name asks for, if it does.
    pub fn of_path(path: &Path) -> Option<Self> {
        let name = path.file_name()?.to_string_lossy();
        Self::ENDINGS.iter().find(|(ending, _)| name.ends_with(ending)).map(|(_, format)| *format)
    }

    /// What the name of such a bundle ends with.
    pub fn ending(self) -> &'static str {
        match self {
            Self::Plain => ".tar",
            Self::Gzip => ".tar.gz",
            Self::Zstd => ".tar.zst",
        }
    }

    /// How much smaller than its content a bundle could be at best.
    pub(super) fn best_ratio(self) -> u64 {
        if self == Self::Plain { 1 } else { 16 }
    }
}

impl fmt::Display for BundleFormat {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.ending().trim_start_matches('.'))
    }
}

/// A writer that compresses; it has to be finished.
pub(super) enum Compressor<W: Write> {
    Plain(W),
    Gzip(ParallelGzip<W>),
    Zstd(zstd::Encoder<'static, W>),
}

impl<W: Write> Compressor<W> {
    pub(super) fn new(format: BundleFormat, into: W) -> io::Result<Self> {
        let threads = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        Ok(match format {
            BundleFormat::Plain => Self::Plain(into),
            BundleFormat::Gzip => Self::Gzip(ParallelGzip { into, pending: Vec::new(), threads }),
            BundleFormat::Zstd => {
                let mut encoder = zstd::Encoder::new(into, ZSTD_LEVEL)?;
                encoder.include_checksum(true)?;
                encoder.multithread(u32::try_from(threads).unwrap_or(1))?;
                Self::Zstd(encoder)
            }
        })
    }

    /// Writes what is still pending, and gives back what was written to.
    pub(super) fn finish(self) -> io::Result<W> {
        match self {
            Self::Plain(into) => Ok(into),
            Self::Gzip(gzip) => gzip.finish(),
            Self::Zstd(encoder) => encoder.finish(),
        }
    }
}

impl Compressor<Measured<'_>> {
    /// Lets nothing more through, whatever is still to be flushed.
    pub(super) fn cut_off(&mut self) {
        match self {
            Self::Plain(into) => into.cut_off(),
            Self::Gzip(gzip) => gzip.into.cut_off(),
            Self::Zstd(encoder) => encoder.get_mut().cut_off(),
        }
    }
}

impl<W: Write> Write for Compressor<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(into) => into.write(bytes),
            Self::Gzip(gzip) => gzip.write(bytes),
            Self::Zstd(encoder) => encoder.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(into) => into.flush(),
            Self::Gzip(gzip) => gzip.into.flush(),
            Self::Zstd(encoder) => encoder.flush(),
        }
    }
}

/// Gathers a block for each core, and writes them as gzip members in their order.
pub(super) struct ParallelGzip<W> {
    into: W,
    pending: Vec<u8>,
    threads: usize,
}

impl<W: Write> ParallelGzip<W> {
    fn write_members(&mut self) -> io::Result<()> {
        let blocks = self.pending.par_chunks(BLOCK_SIZE_BYTES);
        let members: Vec<Vec<u8>> = blocks.map(gzip_member).collect::<io::Result<_>>()?;
        members.iter().try_for_each(|member| self.into.write_all(member))?;
        self.pending.clear();
        Ok(())
    }

    fn finish(mut self) -> io::Result<W> {
        self.write_members()?;
        Ok(self.into)
    }
}

impl<W: Write> Write for ParallelGzip<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.pending.extend_from_slice(bytes);
        if self.pending.len() >= self.threads.saturating_mul(BLOCK_SIZE_BYTES) {
            self.write_members()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.into.flush()
    }
}

fn gzip_member(block: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(block.len() / 4), Compression::default());
    encoder.write_all(block)?;
    encoder.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    fn compressed(format: BundleFormat, bytes: &[u8]) -> Vec<u8> {
        let mut compressor = Compressor::new(format, Vec::new()).unwrap();
        for piece in bytes.chunks(100_000) {
            compressor.write_all(piece).unwrap();
        }
        compressor.finish().unwrap()
    }

    #[test]
    fn what_is_compressed_comes_back() {
        let bytes: Vec<u8> = (0..9_000_000_u32).map(|number| (number / 1000 % 251) as u8).collect();
        let (mut gzip, zstd) = (Vec::new(), compressed(BundleFormat::Zstd, &bytes));
        let members = compressed(BundleFormat::Gzip, &bytes);
        flate2::read::MultiGzDecoder::new(members.as_slice()).read_to_end(&mut gzip).unwrap();
        assert!(gzip == bytes && members.len() < bytes.len() / 10);
        assert!(zstd::decode_all(zstd.as_slice()).unwrap() == bytes);
        assert!(compressed(BundleFormat::Plain, &bytes) == bytes);
        assert!(compressed(BundleFormat::Gzip, b"").is_empty());
    }

    #[test]
    fn the_name_of_a_file_tells_its_format() {
        for (name, format) in [
            ("/tmp/a.tar.gz", Some(BundleFormat::Gzip)),
            ("a.tgz", Some(BundleFormat::Gzip)),
            ("a.tar.zst", Some(BundleFormat::Zstd)),
            ("a.tar", Some(BundleFormat::Plain)),
            ("a.zip", None),
            ("tar", None),
        ] {
            assert_eq!(BundleFormat::of_path(Path::new(name)), format, "{name}");
        }
    }
}

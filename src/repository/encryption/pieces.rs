//! A file too large to be sealed at once: pieces of 128 KiB, each sealed with its number and whether it is the last, so
//! that none can be left out, repeated, or put elsewhere, and the file cannot be cut between two of them.
//!
//! Without a key, the bytes go through as they are.

use std::io::{self, Read, Write};

use super::{Encryption, Place};

/// What is in every piece but the last.
const PIECE_SIZE: usize = 128 * 1024;

/// Writes a file in pieces.
#[derive(Debug)]
pub(in crate::repository) struct PieceWriter<'a, W> {
    encryption: &'a Encryption,
    path: &'a str,
    file: W,
    buffer: Vec<u8>,
    number: u64,
}

impl<'a, W: Write> PieceWriter<'a, W> {
    /// Begins a file that will be at `path` below the repository.
    pub(in crate::repository) fn new(encryption: &'a Encryption, path: &'a str, file: W) -> Self {
        Self { encryption, path, file, buffer: Vec::new(), number: 0 }
    }

    fn write_piece(&mut self, is_last: bool) -> io::Result<()> {
        let place = Place::Piece { path: self.path, number: self.number, is_last };
        let piece = std::mem::take(&mut self.buffer);
        self.number += 1;
        self.file.write_all(&self.encryption.seal(place, piece)?)
    }

    /// Writes what is left, and returns the file, which the caller syncs.
    pub(in crate::repository) fn finish(mut self) -> io::Result<W> {
        if !self.encryption.is_none() {
            self.write_piece(true)?;
        }
        Ok(self.file)
    }
}

impl<W: Write> Write for PieceWriter<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.encryption.is_none() {
            return self.file.write(bytes);
        }
        // Only what comes after it tells that a piece is not the last.
        if self.buffer.len() == PIECE_SIZE && !bytes.is_empty() {
            self.write_piece(false)?;
        }
        let taken = bytes.get(..PIECE_SIZE - self.buffer.len()).unwrap_or(bytes);
        self.buffer.extend_from_slice(taken);
        Ok(taken.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Reads such a file. A piece that is not what was written is an error of kind `InvalidData`.
#[derive(Debug)]
pub(in crate::repository) struct PieceReader<'a, R> {
    encryption: &'a Encryption,
    path: &'a str,
    file: R,
    /// What of the file is still to be read.
    left_bytes: u64,
    number: u64,
    piece: Vec<u8>,
    /// How much of the piece was handed out.
    position: usize,
    has_ended: bool,
}

impl<'a, R: Read> PieceReader<'a, R> {
    /// Begins to read the file of `size_bytes` that is at `path` below the repository.
    pub(in crate::repository) fn new(
        encryption: &'a Encryption,
        path: &'a str,
        file: R,
        size_bytes: u64,
    ) -> Self {
        Self {
            encryption,
            path,
            file,
            left_bytes: size_bytes,
            number: 0,
            piece: Vec::new(),
            position: 0,
            has_ended: false,
        }
    }

    /// What was read from, wherever that is.
    pub(in crate::repository) fn into_inner(self) -> R {
        self.file
    }

    fn read_piece(&mut self) -> io::Result<()> {
        let sealed_size = PIECE_SIZE + self.encryption.overhead();
        let length = self.left_bytes.min(sealed_size as u64);
        let mut sealed = vec![0; usize::try_from(length).map_err(io::Error::other)?];
        self.file.read_exact(&mut sealed)?;
        self.left_bytes -= length;
        let is_last = self.left_bytes == 0;
        let place = Place::Piece { path: self.path, number: self.number, is_last };
        self.piece = self.encryption.open(place, &mut sealed)?.to_vec();
        self.position = 0;
        self.number += 1;
        self.has_ended = is_last;
        Ok(())
    }
}

impl<R: Read> Read for PieceReader<'_, R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.encryption.is_none() {
            return self.file.read(into);
        }
        while self.position == self.piece.len() && !self.has_ended {
            self.read_piece()?;
        }
        let mut rest = self.piece.get(self.position..).unwrap_or_default();
        let count = rest.read(into)?;
        self.position += count;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::keys;
    use super::*;
    use proptest::prelude::*;

    const PATH: &str = "wal/7/00000001/x";
    const SEALED_SIZE: usize = PIECE_SIZE + 40;

    fn written(encryption: &Encryption, content: &[u8]) -> Vec<u8> {
        let mut writer = PieceWriter::new(encryption, PATH, Vec::new());
        writer.write_all(content).unwrap();
        writer.finish().unwrap()
    }

    fn read(encryption: &Encryption, path: &str, bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut content = Vec::new();
        PieceReader::new(encryption, path, bytes, bytes.len() as u64).read_to_end(&mut content)?;
        Ok(content)
    }

    #[test]
    fn files_of_every_length_around_a_piece_come_back() {
        for length in [0, 1, PIECE_SIZE - 1, PIECE_SIZE, PIECE_SIZE + 1, 2 * PIECE_SIZE, 3 * PIECE_SIZE - 7] {
            let content: Vec<u8> = (0..length).map(|index| u8::try_from(index % 251).unwrap()).collect();
            let bytes = written(&keys(1), &content);
            assert_eq!(bytes.len(), length + length.div_ceil(PIECE_SIZE).max(1) * 40, "{length}");
            assert!(read(&keys(1), PATH, &bytes).unwrap() == content, "{length}");
            assert_eq!(written(&Encryption::None, &content), content);
            assert!(read(&Encryption::None, PATH, &content).unwrap() == content, "{length}");
        }
    }

    #[test]
    fn pieces_that_are_left_out_swapped_repeated_or_of_another_file_are_found() {
        let bytes = written(&keys(1), &vec![7; PIECE_SIZE * 3]);
        let (first, rest) = bytes.split_at(SEALED_SIZE);
        let (second, third) = rest.split_at(SEALED_SIZE);
        let swapped = [second, first, third].concat();
        let repeated = [first, first, second, third].concat();
        let left_out = [first, third].concat();
        let cut = [first, second].concat();
        for wrong in [&swapped, &repeated, &left_out, &cut, &Vec::new(), &bytes[..bytes.len() - 1].to_vec()] {
            let error = read(&keys(1), PATH, wrong).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
        }
        assert!(read(&keys(1), "wal/7/00000001/y", &bytes).is_err());
        assert!(read(&keys(2), PATH, &bytes).is_err());
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_are_no_such_file(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(read(&keys(1), PATH, &bytes).is_err());
        }
    }
}

//! Messages between two processes of pgbox, over a pair of sockets; a message may carry an open file.
//!
//! One of the two is root and the other has given that up, so each reads the other's messages as data that may be
//! anything: of a bounded size, into types that check what they hold.

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

/// The most that a message may hold. The largest is the summary of a backup with all its damaged pages.
const LARGEST_MESSAGE_BYTES: u32 = 16 * 1024 * 1024;

/// One end of the connection.
#[derive(Debug)]
pub struct Link {
    stream: UnixStream,
}

/// What was received: the value, and the file that came with it.
#[derive(Debug)]
pub struct Message<T> {
    /// The value.
    pub value: T,
    /// The file.
    pub file: Option<File>,
}

impl Link {
    /// Makes a link; the other end is for another process to have as its standard input.
    pub(super) fn pair() -> io::Result<(Self, OwnedFd)> {
        let (ours, theirs) = UnixStream::pair()?;
        Ok((Self { stream: ours }, theirs.into()))
    }

    /// Takes the end that this process was started with as its standard input.
    ///
    /// # Errors
    /// When there is none.
    pub fn from_standard_input() -> io::Result<Self> {
        let descriptor = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?;
        rustix::net::sockopt::socket_type(&descriptor)?;
        // No program that this process starts may get it by mistake.
        let nothing = File::open("/dev/null")?;
        rustix::stdio::dup2_stdin(&nothing)?;
        Ok(Self { stream: UnixStream::from(descriptor) })
    }

    /// Sends a value. One that nobody is there for any more is lost; [`Link::receive`] says so.
    pub fn send(&mut self, value: &impl Serialize) -> io::Result<()> {
        self.send_with(value, None)
    }

    /// Sends a value together with an open file, which the receiver gets as it is open here.
    pub fn send_file(&mut self, value: &impl Serialize, file: &File) -> io::Result<()> {
        self.send_with(value, Some(file.as_fd()))
    }

    fn send_with(&mut self, value: &impl Serialize, file: Option<BorrowedFd<'_>>) -> io::Result<()> {
        match self.send_all(value, file) {
            Err(error) if is_closed(&error) => Ok(()),
            sent => sent,
        }
    }

    fn send_all(&mut self, value: &impl Serialize, file: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let content = serde_json::to_vec(value)?;
        let size = u32::try_from(content.len()).ok().filter(|size| *size <= LARGEST_MESSAGE_BYTES);
        let head = size.ok_or(io::ErrorKind::InvalidInput)?.to_le_bytes();
        let descriptors: Vec<BorrowedFd<'_>> = file.into_iter().collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() {
            control.push(SendAncillaryMessage::ScmRights(&descriptors));
        }
        let sent = sendmsg(&self.stream, &[IoSlice::new(&head)], &mut control, SendFlags::NOSIGNAL)?;
        // The descriptor went with the first byte. What a full buffer did not take follows.
        self.stream.write_all(head.get(sent..).unwrap_or_default())?;
        self.stream.write_all(&content)
    }

    /// Waits for a value. `None`: the other end was closed, so there will be none.
    ///
    /// # Errors
    /// When the other process ended within a message, or sent something else.
    pub fn receive<T: DeserializeOwned>(&mut self) -> io::Result<Option<Message<T>>> {
        let mut head = [0; 4];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = loop {
            let mut parts = [IoSliceMut::new(&mut head)];
            match recvmsg(&self.stream, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC) {
                Err(rustix::io::Errno::INTR) => {}
                // The other process ended without reading what we sent.
                Err(rustix::io::Errno::CONNRESET) => return Ok(None),
                received => break received?.bytes,
            }
        };
        if received == 0 {
            return Ok(None);
        }
        let file = control.drain().find_map(first_file);
        self.stream.read_exact(head.get_mut(received..).unwrap_or_default())?;
        let value = serde_json::from_slice(&self.read_content(u32::from_le_bytes(head))?)?;
        Ok(Some(Message { value, file }))
    }

    fn read_content(&mut self, size: u32) -> io::Result<Vec<u8>> {
        if size > LARGEST_MESSAGE_BYTES {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the message is too large"));
        }
        let mut content = Vec::new();
        (&mut self.stream).take(size.into()).read_to_end(&mut content)?;
        if content.len() == usize::try_from(size).unwrap_or(usize::MAX) {
            Ok(content)
        } else {
            Err(io::ErrorKind::UnexpectedEof.into())
        }
    }
}

fn is_closed(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
}

fn first_file(message: RecvAncillaryMessage<'_>) -> Option<File> {
    match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next().map(File::from),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Seek;

    fn pair() -> (Link, Link) {
        let (ours, theirs) = Link::pair().unwrap();
        (ours, Link { stream: UnixStream::from(theirs) })
    }

    #[test]
    fn a_value_and_a_file_arrive_together() {
        let (mut ours, mut theirs) = pair();
        let mut file = tempfile::tempfile().unwrap();

        ours.send_file(&"write there", &file).unwrap();
        ours.send(&7).unwrap();
        drop(ours);

        let first: Message<String> = theirs.receive().unwrap().unwrap();
        assert_eq!(first.value, "write there");
        first.file.unwrap().write_all(b"text").unwrap();
        let second: Message<u32> = theirs.receive().unwrap().unwrap();
        assert_eq!((second.value, second.file.is_some()), (7, false));
        assert!(theirs.receive::<u32>().unwrap().is_none());
        file.rewind().unwrap();
        assert_eq!(io::read_to_string(file).unwrap(), "text");
    }

    #[test]
    fn a_process_that_has_ended_says_no_more_and_is_no_error() {
        let (mut ours, theirs) = pair();
        ours.send(&1).unwrap();
        drop(theirs);
        ours.send_file(&2, &tempfile::tempfile().unwrap()).unwrap();
        assert!(ours.receive::<u32>().unwrap().is_none());
    }

    #[test]
    fn what_is_no_message_is_refused_before_memory_is_taken_for_it() {
        for (bytes, expected) in [
            (&[0xff, 0xff, 0xff, 0xff][..], "too large"),
            (&[9, 0, 0, 0, b'1'], "end of file"),
            (&[9, 0], "fill whole buffer"),
            (&[1, 0, 0, 0, b'{'], "invalid type"),
        ] {
            let (mut ours, mut theirs) = pair();
            ours.stream.write_all(bytes).unwrap();
            drop(ours);
            let error = theirs.receive::<u32>().unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
        }
    }
}

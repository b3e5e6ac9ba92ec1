//! What one thread writes another reads: a bounded queue of buffers, without a descriptor.

use std::io::{self, Read, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use crate::error::{Error, Result};

/// Bytes of one buffer, and how many wait at most.
const BUFFER: usize = 256 << 10;
const QUEUE: usize = 8;

/// Reads what another thread writes. When it is dropped, the other's next write fails.
#[derive(Debug)]
pub(crate) struct Reader {
    receiver: Receiver<io::Result<Vec<u8>>>,
    current: Vec<u8>,
    at: usize,
}

/// Where the other thread writes to.
#[derive(Debug)]
pub(crate) struct Writer {
    sender: SyncSender<io::Result<Vec<u8>>>,
    buffer: Vec<u8>,
}

/// Runs `write` on a thread. Its error is the reader's last word.
pub(crate) fn reader(write: impl FnOnce(Writer) -> Result<()> + Send + 'static) -> Result<Reader> {
    let (sender, receiver) = sync_channel(QUEUE);
    let writer = Writer { sender: sender.clone(), buffer: Vec::with_capacity(BUFFER) };
    thread::Builder::new()
        .name("docklet-pack".to_owned())
        .spawn(move || {
            if let Err(error) = write(writer) {
                // A reader that has gone does not want to know.
                let _ = sender.send(Err(io::Error::other(error)));
            }
        })
        .map_err(|e| Error::os("clone", "thread", e))?;
    Ok(Reader { receiver, current: Vec::new(), at: 0 })
}

impl Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.at == self.current.len() {
            match self.receiver.recv() {
                Ok(next) => (self.current, self.at) = (next?, 0),
                Err(_) => return Ok(0),
            }
        }
        let most = buffer.len().min(self.current.len() - self.at);
        buffer[..most].copy_from_slice(&self.current[self.at..self.at + most]);
        self.at += most;
        Ok(most)
    }
}

impl Write for Writer {
    fn write(&mut self, content: &[u8]) -> io::Result<usize> {
        let most = content.len().min(BUFFER - self.buffer.len());
        self.buffer.extend_from_slice(&content[..most]);
        if self.buffer.len() == BUFFER {
            self.flush()?;
        }
        Ok(most)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let full = std::mem::replace(&mut self.buffer, Vec::with_capacity(BUFFER));
        self.sender.send(Ok(full)).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let content: Vec<u8> = (0..5_000_000_u32).flat_map(u32::to_le_bytes).collect();
        let expected = content.clone();
        let mut reader = reader(move |mut writer| {
            content.chunks(10_007).for_each(|chunk| writer.write_all(chunk).unwrap());
            writer.flush().unwrap();
            Ok(())
        })
        .unwrap();
        let mut read = Vec::new();
        reader.read_to_end(&mut read).unwrap();
        assert!(read == expected);
    }

    #[test]
    fn an_error_is_read_last() {
        let mut reader = reader(|mut writer| {
            writer.write_all(b"half").unwrap();
            writer.flush().unwrap();
            Err(Error::NotFound { what: "the rest".to_owned() })
        })
        .unwrap();
        let mut read = Vec::new();
        let error = reader.read_to_end(&mut read).unwrap_err();
        assert_eq!(read, b"half");
        assert_eq!(error.downcast::<Error>().unwrap().to_string(), "the rest does not exist");
    }

    #[test]
    fn a_reader_that_goes_ends_the_writer() {
        let (sender, receiver) = std::sync::mpsc::channel();
        let reader = reader(move |mut writer| {
            let error = (0..1000).find_map(|_| writer.write_all(&[0; BUFFER]).err());
            sender.send(error.map(|e| e.kind())).unwrap();
            Ok(())
        })
        .unwrap();
        drop(reader);
        assert_eq!(receiver.recv().unwrap(), Some(io::ErrorKind::BrokenPipe));
    }
}

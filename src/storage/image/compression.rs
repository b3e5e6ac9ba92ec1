//! What layers are compressed with: gzip (RFC 1952), zstd (RFC 8878) and xz (`man 1 xz`), as streams.

use std::fmt;
use std::io::{self, BufRead, BufReader, Chain, Cursor, Read, Write};

use flate2::bufread::MultiGzDecoder;
use flate2::write::GzEncoder;
use liblzma::bufread::XzDecoder;
use liblzma::stream::{CONCATENATED, Stream};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::storage::image::digest::{Digest, Hashing};

/// How a stream is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Compression {
    /// Not at all.
    None,
    /// gzip: what every tool reads. The default.
    #[default]
    Gzip,
    /// zstd: several times faster and smaller; tools older than 2020 do not read it.
    Zstd,
    /// xz: read only.
    Xz,
}

/// The longest magic number of those known, in bytes.
const MAGIC_MAX: usize = 6;
/// Bytes read at once.
const BUFFER: usize = 256 << 10;
/// What decoding one xz stream may take, in bytes: `xz -9` needs 65 MiB.
const XZ_MEMORY_MAX: u64 = 128 << 20;
/// The largest zstd window, as a power of two: 128 MiB, what `zstd -d` allows.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;
/// gzip's level: half the time of the usual 6 at 4 % more bytes.
const GZIP_LEVEL: u32 = 4;

impl Compression {
    /// Tells by the first bytes. A tar archive begins with none of these.
    pub(crate) fn detect(start: &[u8]) -> Self {
        match start {
            [0x1f, 0x8b, ..] => Self::Gzip,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Self::Xz,
            // A stream may begin with a frame to be skipped.
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            _ => Self::None,
        }
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
            Self::Xz => "xz",
        })
    }
}

type Input<R> = BufReader<Chain<Cursor<Vec<u8>>, R>>;

/// Decompresses, whatever it is compressed with. A stream that ends early, or goes on after its end, is an error.
pub(crate) struct Decoder<R: Read> {
    kind: Kind<R>,
    compression: Compression,
}

enum Kind<R: Read> {
    None(Input<R>),
    Gzip(Box<MultiGzDecoder<Input<R>>>),
    Zstd(Box<zstd::Decoder<'static, Input<R>>>),
    Xz(Box<XzDecoder<Input<R>>>),
}

impl<R: Read> Decoder<R> {
    /// Reads as much of `input` as tells what it is.
    pub(crate) fn new(mut input: R) -> io::Result<Self> {
        let mut start = Vec::with_capacity(MAGIC_MAX);
        input.by_ref().take(MAGIC_MAX as u64).read_to_end(&mut start)?;
        let compression = Compression::detect(&start);
        let input = BufReader::with_capacity(BUFFER, Cursor::new(start).chain(input));
        let kind = match compression {
            Compression::None => Kind::None(input),
            Compression::Gzip => Kind::Gzip(Box::new(MultiGzDecoder::new(input))),
            Compression::Zstd => {
                let mut decoder = zstd::Decoder::with_buffer(input)?;
                decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
                Kind::Zstd(Box::new(decoder))
            }
            Compression::Xz => {
                let stream = Stream::new_stream_decoder(XZ_MEMORY_MAX, CONCATENATED)?;
                Kind::Xz(Box::new(XzDecoder::new_stream(input, stream)))
            }
        };
        Ok(Self { kind, compression })
    }

    /// What it found.
    pub(crate) fn compression(&self) -> Compression {
        self.compression
    }
}

impl<R: Read> Read for Decoder<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.kind {
            Kind::None(input) => input.read(buffer),
            Kind::Gzip(decoder) => decoder.read(buffer),
            Kind::Zstd(decoder) => decoder.read(buffer),
            Kind::Xz(decoder) => {
                let read = decoder.read(buffer)?;
                if read == 0 && !buffer.is_empty() && !decoder.get_mut().fill_buf()?.is_empty() {
                    return Err(io::Error::new(io::ErrorKind::InvalidData, "data after the end"));
                }
                Ok(read)
            }
        }
    }
}

/// Compresses what is written to it, and hashes what that becomes. Nothing is whole before [`Encoder::finish`].
pub(crate) enum Encoder<W: Write> {
    None(W),
    Gzip(Box<GzEncoder<Hashing<W>>>),
    Zstd(Box<zstd::Encoder<'static, Hashing<W>>>),
}

impl<W: Write> Encoder<W> {
    pub(crate) fn new(output: W, compression: Compression) -> Result<Self> {
        Ok(match compression {
            Compression::None => Self::None(output),
            Compression::Gzip => Self::Gzip(Box::new(GzEncoder::new(
                Hashing::new(output),
                flate2::Compression::new(GZIP_LEVEL),
            ))),
            Compression::Zstd => {
                let failed = |e| Error::os("zstd", "encoder", e);
                let mut encoder = zstd::Encoder::new(Hashing::new(output), 0).map_err(failed)?;
                encoder.include_checksum(true).map_err(failed)?;
                Self::Zstd(Box::new(encoder))
            }
            Compression::Xz => {
                return Err(Error::invalid("compression", "xz", "is only read: write gzip or zstd"));
            }
        })
    }

    /// Writes the end and gives the output back, with the digest and the length of what was written to it; `None` if that is
    /// what was written here, which the caller has hashed.
    pub(crate) fn finish(self) -> io::Result<(W, Option<(Digest, u64)>)> {
        let hashing = match self {
            Self::None(output) => return Ok((output, None)),
            Self::Gzip(encoder) => encoder.finish()?,
            Self::Zstd(encoder) => encoder.finish()?,
        };
        let (output, digest, bytes) = hashing.finish();
        Ok((output, Some((digest, bytes))))
    }
}

impl<W: Write> Write for Encoder<W> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        match self {
            Self::None(output) => output.write(buffer),
            Self::Gzip(encoder) => encoder.write(buffer),
            Self::Zstd(encoder) => encoder.write(buffer),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::None(output) => output.flush(),
            Self::Gzip(encoder) => encoder.flush(),
            Self::Zstd(encoder) => encoder.flush(),
        }
    }
}

#[cfg(test)]
mod tests {
    use liblzma::write::XzEncoder;
    use proptest::prelude::*;

    use super::*;

    const ALL: [Compression; 4] = [Compression::None, Compression::Gzip, Compression::Zstd, Compression::Xz];

    fn encode(content: &[u8], compression: Compression) -> Vec<u8> {
        if compression == Compression::Xz {
            let mut encoder = XzEncoder::new(Vec::new(), 0);
            encoder.write_all(content).unwrap();
            return encoder.finish().unwrap();
        }
        let mut encoder = Encoder::new(Vec::new(), compression).unwrap();
        encoder.write_all(content).unwrap();
        let (stream, hashed) = encoder.finish().unwrap();
        let own = (Digest::of(&stream), stream.len() as u64);
        assert_eq!(hashed, (compression != Compression::None).then_some(own));
        stream
    }

    fn decode(stream: &[u8]) -> io::Result<(Vec<u8>, Compression)> {
        let mut decoder = Decoder::new(stream)?;
        let mut content = Vec::new();
        decoder.read_to_end(&mut content)?;
        Ok((content, decoder.compression()))
    }

    #[test]
    fn streams_of_several_parts_are_one() {
        for compression in ALL {
            let parts =
                [encode(b"one, ", compression), encode(b"", compression), encode(b"two", compression)];
            let (content, found) = decode(&parts.concat()).unwrap();
            assert_eq!((content.as_slice(), found), (&b"one, two"[..], compression));
        }
    }

    /// Each length but the whole is an error, and so is anything after the end.
    #[test]
    fn a_cut_or_continued_stream_is_an_error() {
        let content: Vec<u8> =
            (0..1000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
        for compression in &ALL[1..] {
            let stream = encode(&content, *compression);
            for length in MAGIC_MAX..stream.len() {
                assert!(decode(&stream[..length]).is_err(), "{compression}: {length} of {}", stream.len());
            }
            for garbage in [&b"x"[..], b"garbage after the end", &[0; 7]] {
                let longer = [&stream, garbage].concat();
                assert!(decode(&longer).is_err(), "{compression} and {garbage:?}");
            }
        }
    }

    #[test]
    fn memory_for_decoding_is_bounded() {
        // The header of a zstd frame with a window of 2 GiB.
        let stream = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xa8, 0x01, 0x00, 0x00];
        assert!(decode(&stream).unwrap_err().to_string().contains("memory"), "{:?}", decode(&stream));
    }

    proptest! {
        #[test]
        fn no_damage_panics(
            content in proptest::collection::vec(any::<u8>(), 0..2000),
            kind in 1_usize..4,
            at in any::<prop::sample::Index>(),
            bits in 1_u8..,
        ) {
            let mut stream = encode(&content, ALL[kind]);
            prop_assert_eq!(&decode(&stream).unwrap().0, &content);
            let at = at.index(stream.len());
            stream[at] ^= bits;
            // gzip's header has fields that mean nothing; elsewhere it is noticed, or it is not compressed any more.
            let _ = decode(&stream);
        }
    }
}

//! What a layer is known by: the digest of its archive before it is compressed (OCI image specification, `config.md`,
//! "Layer DiffID").

use std::io::{self, Read};

use crate::error::{Error, Result};
use crate::storage::image::compression::Decoder;
use crate::storage::image::digest::{Digest, Hashing};
use crate::storage::image::layer::options::UnpackLimits;
use crate::storage::image::layer::reader::reading;

/// An error unless `archive` is the layer `expected`. Nothing is unpacked for it.
pub(crate) fn check(archive: impl Read, expected: &Digest) -> Result<()> {
    let decoder = Decoder::new(archive).map_err(reading)?;
    // What is longer was never unpacked, and so hashes to something else.
    let mut content = Hashing::new(decoder.take(UnpackLimits::default().bytes));
    io::copy(&mut content, &mut io::sink()).map_err(reading)?;
    let (_, found, _) = content.finish();
    if found == *expected { Ok(()) } else { Err(mismatch(expected, &found)) }
}

/// The error for a layer that is another one.
pub(crate) fn mismatch(expected: &Digest, found: &Digest) -> Error {
    let reason = format!("its content hashes to {found}; get it again");
    Error::Damaged { what: format!("layer {expected}"), reason }
}

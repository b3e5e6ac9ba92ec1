//! Chance from the kernel (`man 2 getrandom`).

use rustix::rand::{GetRandomFlags, getrandom};

use crate::error::{Error, Result};

/// Random bytes.
pub(crate) fn bytes<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    // Up to 256 bytes come at once, whatever signals there are.
    getrandom(&mut bytes[..], GetRandomFlags::empty()).map_err(|e| Error::os("getrandom", "bytes", e))?;
    Ok(bytes)
}

/// 16 hexadecimal digits, which nobody else chooses, on no host.
pub(crate) fn id() -> Result<String> {
    bytes().map(|bytes| format!("{:016x}", u64::from_ne_bytes(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_differ_and_are_of_one_length() {
        let (one, other) = (id().unwrap(), id().unwrap());
        assert_ne!(one, other);
        assert!([one, other].iter().all(|id| id.len() == 16 && id.bytes().all(|b| b.is_ascii_hexdigit())));
    }
}

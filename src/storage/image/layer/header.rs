//! The fields of a tar header (`man 5 tar`, "Numeric Extensions" too).

use tar::Header;

use crate::error::Result;
use crate::storage::image::layer::member::damaged;

/// An error if it is no header.
pub(crate) fn check_sum(header: &Header) -> Result<()> {
    let bytes = header.as_bytes();
    let counted = || bytes[..148].iter().chain(&[b' '; 8]).chain(&bytes[156..]).copied();
    let unsigned: u64 = counted().map(u64::from).sum();
    // Some old programs summed signed bytes.
    let signed: i64 = counted().map(|b| i64::from(b.cast_signed())).sum();
    match number(&header.as_old().cksum) {
        Some(sum) if sum == unsigned || i64::try_from(sum) == Ok(signed) => Ok(()),
        _ => Err(damaged("the checksum of a header is wrong, or it is no tar archive")),
    }
}

/// A number of a header; an empty field is 0. Octal digits between spaces and zero bytes, or big-endian if the first bit is set.
pub(crate) fn number(field: &[u8]) -> Option<u64> {
    if let [first, rest @ ..] = field
        && first & 0x80 != 0
    {
        // 0x80 begins a positive number and 0xff a negative one; bits before the last 64 repeat the sign.
        let fill = if *first == 0xff { 0xff } else { 0 };
        let (high, low) = rest.split_at(rest.len().saturating_sub(8));
        if !matches!(first, 0x80 | 0xff) || high.iter().any(|&b| b != fill) {
            return None;
        }
        let start = if fill == 0 { 0 } else { u64::MAX };
        return Some(low.iter().fold(start, |n, &b| n << 8 | u64::from(b)));
    }
    let text = std::str::from_utf8(until_zero(field)).ok()?.trim_matches(' ');
    if text.is_empty() {
        return Some(0);
    }
    if text.bytes().all(|b| matches!(b, b'0'..=b'7')) { u64::from_str_radix(text, 8).ok() } else { None }
}

/// A text of a header.
pub(crate) fn until_zero(field: &[u8]) -> &[u8] {
    field.split(|&b| b == 0).next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_octal_or_binary() {
        let check = |field: &[u8], expected: Option<u64>| assert_eq!(number(field), expected, "{field:?}");
        check(b"0000755\0", Some(0o755));
        check(b"   755 \0", Some(0o755));
        check(b"\0\0\0", Some(0));
        check(b"        ", Some(0));
        check(b"777777777777", Some(0o777_777_777_777));
        check(b"-1", None);
        check(b"+1", None);
        check(b"8", None);
        check(b"1 1", None);
        check(b"\x80\0\0\0\0\0\x01\x02", Some(258));
        check(b"\x80\0\0\0\0\0\0\0\0\0\x01\0", Some(256));
        check(b"\x80\0\0\x01\0\0\0\0\0\0\x01\0", None);
        check(b"\x81\0\0\0\0\0\0\0", None);
        check(&[0xff; 12], Some(u64::MAX));
    }
}

//! Numbers as liblxc reads them: the C library's `strtoul(3)` and `strtoll(3)`, with what must not follow.

/// What `strtoul` and its like make of a text.
pub(crate) struct Scanned<'a> {
    pub(crate) negative: bool,
    /// `None` if it has no digits.
    pub(crate) magnitude: Option<Magnitude>,
    pub(crate) rest: &'a [u8],
}

/// A number without its sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Magnitude {
    At(u64),
    /// More than 64 bits.
    Over,
}

/// `isspace` of the C library.
pub(crate) fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t'..=b'\r')
}

pub(crate) fn skip_space(text: &[u8]) -> &[u8] {
    &text[text.iter().take_while(|b| is_space(**b)).count()..]
}

/// `strtoull(text, …, base)`. Base 0 takes `0x` and a leading `0` as C does.
pub(crate) fn scan(text: &[u8], base: u32) -> Scanned<'_> {
    let mut rest = skip_space(text);
    let negative = rest.first() == Some(&b'-');
    if matches!(rest.first(), Some(b'-' | b'+')) {
        rest = &rest[1..];
    }
    let is_hex = |rest: &[u8]| matches!(rest, [b'0', b'x' | b'X', digit, ..] if digit.is_ascii_hexdigit());
    let base = match base {
        0 if is_hex(rest) => {
            rest = &rest[2..];
            16
        }
        0 if rest.first() == Some(&b'0') => 8,
        0 => 10,
        base => base,
    };
    let digits = rest.iter().map_while(|b| char::from(*b).to_digit(base));
    let (mut count, mut magnitude) = (0, Some(0_u64));
    for digit in digits {
        count += 1;
        magnitude = magnitude
            .and_then(|m| m.checked_mul(u64::from(base)))
            .and_then(|m| m.checked_add(u64::from(digit)));
    }
    if count == 0 {
        return Scanned { negative: false, magnitude: None, rest: text };
    }
    let magnitude = magnitude.map_or(Magnitude::Over, Magnitude::At);
    Scanned { negative, magnitude: Some(magnitude), rest: &rest[count..] }
}

/// A whole unsigned number: decimal, `0x…` or octal, without a minus.
pub(crate) fn unsigned(text: &[u8]) -> Option<Magnitude> {
    let scanned = scan(text, 0);
    if scanned.negative || !scanned.rest.is_empty() { None } else { scanned.magnitude }
}

/// A whole unsigned number of 32 bits.
pub(crate) fn unsigned_32(text: &[u8]) -> Option<u32> {
    match unsigned(text)? {
        Magnitude::At(number) => u32::try_from(number).ok(),
        Magnitude::Over => None,
    }
}

/// A number at the beginning of `text`, of 64 bits with a sign, and what follows it.
pub(crate) fn signed_prefix(text: &[u8], base: u32) -> Option<(i64, &[u8])> {
    let Scanned { negative, magnitude, rest } = scan(text, base);
    let Magnitude::At(magnitude) = magnitude? else { return None };
    let number =
        if negative { 0_i64.checked_sub_unsigned(magnitude)? } else { i64::try_from(magnitude).ok()? };
    Some((number, rest))
}

/// A whole number of 64 bits with a sign.
pub(crate) fn signed(text: &[u8]) -> Option<i64> {
    let (number, rest) = signed_prefix(text, 0)?;
    rest.is_empty().then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_c() {
        for (text, expected) in [
            ("0", Some(0)),
            ("16", Some(16)),
            ("0x10", Some(16)),
            ("0X1f", Some(31)),
            ("010", Some(8)),
            ("+5", Some(5)),
            (" \x0b5", Some(5)),
            ("4294967295", Some(u32::MAX)),
            ("4294967296", None),
            ("99999999999999999999", None),
            ("08", None),
            ("0x", None),
            ("-1", None),
            ("-0", None),
            ("+-5", None),
            ("5 ", None),
            ("5a", None),
            ("", None),
            (" ", None),
        ] {
            assert_eq!(unsigned_32(text.as_bytes()), expected, "{text:?}");
        }
        assert_eq!(signed(b"-0x10"), Some(-16));
        assert_eq!(signed(b"-9223372036854775808"), Some(i64::MIN));
        assert_eq!(signed(b"9223372036854775808"), None);
        assert_eq!(signed_prefix(b"12ms", 10), Some((12, &b"ms"[..])));
    }
}

//! Netlink's messages and attributes, byte for byte (`man 7 netlink`).

/// A netlink header: length, kind, flags, sequence number, port.
const HEADER: usize = 16;
const ATTRIBUTE_HEADER: usize = 4;
/// Bits of an attribute's kind that are none of it (`NLA_F_NESTED`, `NLA_F_NET_BYTEORDER`).
const FLAGS: u16 = 0xc000;
const NESTED: u16 = 0x8000;

/// What came: the kind, and what is behind the header.
pub(super) type Message<'a> = (u16, &'a [u8]);

/// A message of `kind` with `body`.
pub(super) fn message(kind: u16, flags: u16, sequence: u32, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(HEADER + body.len()).unwrap_or(u32::MAX);
    let fields = [
        &length.to_ne_bytes()[..],
        &kind.to_ne_bytes(),
        &flags.to_ne_bytes(),
        &sequence.to_ne_bytes(),
        &[0; 4],
        body,
    ];
    fields.concat()
}

/// The messages in what was received, of the answer to `sequence`.
pub(super) fn messages(mut bytes: &[u8], sequence: u32) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let length = usize::try_from(number32(bytes, 0)?).ok()?;
        let message = bytes.get(..length).filter(|message| message.len() >= HEADER)?;
        bytes = bytes.get(aligned(length)..).unwrap_or_default();
        Some((number32(message, 8)?, number16(message, 4)?, message.get(HEADER..)?))
    })
    .filter(move |(of, ..)| *of == sequence)
    .map(|(_, kind, body)| (kind, body))
}

/// An attribute, padded.
pub(super) fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(ATTRIBUTE_HEADER + value.len()).unwrap_or(u16::MAX);
    let mut bytes = [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), value].concat();
    bytes.resize(aligned(bytes.len()), 0);
    bytes
}

/// An attribute of attributes.
pub(super) fn nested(kind: u16, values: &[Vec<u8>]) -> Vec<u8> {
    attribute(kind | NESTED, &values.concat())
}

/// The attributes in `bytes`: their kinds and values.
pub(super) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(number16(bytes, 0)?);
        let kind = number16(bytes, 2)? & !FLAGS;
        let value = bytes.get(ATTRIBUTE_HEADER..length)?;
        bytes = bytes.get(aligned(length)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// The value of the attribute `kind`.
pub(super) fn find(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(found, _)| *found == kind).map(|(_, value)| value)
}

/// A number of the host's byte order, at `offset`.
pub(super) fn number32(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(offset..offset + 4)?.try_into().ok()?))
}

fn number16(bytes: &[u8], offset: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(offset..offset + 2)?.try_into().ok()?))
}

fn aligned(length: usize) -> usize {
    length.next_multiple_of(4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let inner = nested(3, &[attribute(1, &[7]), attribute(2, &[1, 2, 3, 4, 5])]);
        assert_eq!(inner.len(), 4 + 8 + 12);
        let two = [message(9, 1, 4, &inner), message(9, 1, 5, &[])].concat();
        let found: Vec<_> = messages(&two, 4).collect();
        assert_eq!(found, [(9, &inner[..])]);
        let value = find(&inner, 3).unwrap();
        assert_eq!(attributes(value).collect::<Vec<_>>(), [(1, &[7][..]), (2, &[1, 2, 3, 4, 5])]);
        assert_eq!(find(value, 4), None);
    }

    #[test]
    fn what_is_cut_off_ends() {
        let whole = message(9, 0, 4, &attribute(1, &[1, 2, 3, 4]));
        for length in 0..whole.len() {
            assert_eq!(messages(&whole[..length], 4).count(), 0);
        }
        let attribute = attribute(1, &[1, 2, 3, 4]);
        for length in 0..attribute.len() {
            assert_eq!(attributes(&attribute[..length]).count(), 0);
        }
        assert_eq!(messages(&[0; 32], 0).count(), 0);
        assert_eq!(attributes(&[0; 32]).count(), 0);
    }
}

//! Where the data of a file with holes is: the four ways in which GNU tar says it (its manual, "Storing Sparse Files").

use tar::GnuSparseHeader;

/// A run of data in a file with holes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) offset: u64,
    pub(crate) length: u64,
}

/// More runs than this are refused: 1.6 MB of memory.
pub(crate) const EXTENTS_MAX: usize = 100_000;

/// Appends what one header of the old format holds. `None` if it is malformed.
pub(crate) fn from_headers(headers: &[GnuSparseHeader], extents: &mut Vec<Extent>) -> Option<()> {
    for header in headers.iter().filter(|header| !header.is_empty()) {
        extents.push(Extent { offset: header.offset().ok()?, length: header.length().ok()? });
    }
    (extents.len() <= EXTENTS_MAX).then_some(())
}

/// Pairs of numbers: version 0.1's map, split at commas, or 0.0's values in order.
pub(crate) fn from_numbers<'a>(numbers: impl IntoIterator<Item = &'a [u8]>) -> Option<Vec<Extent>> {
    let mut numbers = numbers.into_iter().map(decimal);
    let mut extents = Vec::new();
    while let Some(offset) = numbers.next() {
        extents.push(Extent { offset: offset?, length: numbers.next()?? });
        if extents.len() > EXTENTS_MAX {
            return None;
        }
    }
    Some(extents)
}

/// What is true of every sound map: in order, without overlaps, within the file, and as long as the stored data.
pub(crate) fn is_sound(extents: &[Extent], size: u64, stored: u64) -> bool {
    let mut end = 0_u64;
    let mut total = 0_u64;
    for extent in extents {
        let Some(next) = extent.offset.checked_add(extent.length) else { return false };
        if extent.offset < end || next > size {
            return false;
        }
        end = next;
        // No overflow: runs do not overlap, and end within a u64.
        total += extent.length;
    }
    total == stored
}

/// A decimal number without sign.
pub(crate) fn decimal(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text).ok().filter(|text| text.bytes().all(|b| b.is_ascii_digit()))?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_pairs() {
        let map = |text: &str| from_numbers(text.split(',').map(str::as_bytes));
        assert_eq!(
            map("0,5,10,0"),
            Some(vec![Extent { offset: 0, length: 5 }, Extent { offset: 10, length: 0 }])
        );
        for bad in ["0", "0,5,10", "0,-5", "+1,2", ",", "0,99999999999999999999"] {
            assert_eq!(map(bad), None, "{bad}");
        }
    }

    #[test]
    fn only_sound_maps_pass() {
        let check = |map: &[(u64, u64)], size, stored, expected| {
            let extents: Vec<Extent> =
                map.iter().map(|&(offset, length)| Extent { offset, length }).collect();
            assert_eq!(is_sound(&extents, size, stored), expected, "{map:?}");
        };
        check(&[], 100, 0, true);
        check(&[(0, 5), (10, 5), (100, 0)], 100, 10, true);
        check(&[(10, 5), (0, 5)], 100, 10, false);
        check(&[(0, 5), (4, 5)], 100, 10, false);
        check(&[(0, 5)], 4, 5, false);
        check(&[(0, 5)], 100, 6, false);
        check(&[(u64::MAX, 2)], u64::MAX, 2, false);
    }
}

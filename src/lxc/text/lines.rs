//! How liblxc cuts a file into keys and values (its `parse.c` and `confile.c`).
//!
//! At every newline and carriage return, up to the first zero byte. A line whose first character but blanks is `#` is a
//! comment; one that does not begin with `lxc.` is passed over. The first `=` ends the key. Blanks (space and tab) around
//! both are cut off, then one pair of equal quotes around the value. There is no escape.

use std::ops::Range;

/// Where the parts of one entry are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cut {
    /// From 1. Counted as an editor does, by newlines alone.
    pub(crate) line: usize,
    /// Where the editor's line begins.
    pub(crate) line_start: usize,
    /// Where what liblxc takes for a line begins and ends.
    pub(crate) whole: Range<usize>,
    pub(crate) key: Range<usize>,
    /// `None` if there is no `=`.
    pub(crate) value: Option<Range<usize>>,
}

/// The entries of `bytes`, in order.
pub(crate) fn entries(bytes: &[u8]) -> impl Iterator<Item = Cut> + '_ {
    let end = live(bytes);
    let (mut at, mut line, mut line_start) = (0, 1, 0);
    std::iter::from_fn(move || {
        while at < end {
            let start = at;
            let stop = bytes[start..end].iter().position(|b| matches!(b, b'\n' | b'\r'));
            let stop = stop.map_or(end, |length| start + length);
            let (this_line, this_start) = (line, line_start);
            at = stop + 1;
            if bytes.get(stop) == Some(&b'\n') && stop < end {
                (line, line_start) = (line + 1, at);
            }
            if let Some(cut) = entry(bytes, start..stop, this_line, this_start) {
                return Some(cut);
            }
        }
        None
    })
}

/// How much of a file liblxc looks at.
pub(crate) fn live(bytes: &[u8]) -> usize {
    bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len())
}

fn entry(bytes: &[u8], whole: Range<usize>, line: usize, line_start: usize) -> Option<Cut> {
    let Range { start, end } = trim(bytes, whole.clone());
    if !bytes[start..end].starts_with(b"lxc.") {
        return None;
    }
    let Some(equals) = bytes[start..end].iter().position(|b| *b == b'=').map(|at| start + at) else {
        return Some(Cut { line, line_start, whole, key: start..end, value: None });
    };
    let mut value = trim(bytes, equals + 1..end);
    if let [first @ (b'"' | b'\''), .., last] = &bytes[value.clone()]
        && first == last
    {
        value = value.start + 1..value.end - 1;
    }
    Some(Cut { line, line_start, whole, key: trim(bytes, start..equals), value: Some(value) })
}

fn trim(bytes: &[u8], range: Range<usize>) -> Range<usize> {
    let blank = |b: &u8| matches!(b, b' ' | b'\t');
    let slice = &bytes[range.clone()];
    let left = slice.iter().take_while(|b| blank(b)).count();
    let right = slice[left..].iter().rev().take_while(|b| blank(b)).count();
    range.start + left..range.end - right
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(text: &str) -> Vec<(usize, usize, &str, Option<&str>)> {
        let part = |range: &Range<usize>| &text[range.clone()];
        entries(text.as_bytes())
            .map(|cut| {
                let column = cut.key.start - cut.line_start + 1;
                (cut.line, column, part(&cut.key), cut.value.as_ref().map(part))
            })
            .collect()
    }

    #[test]
    fn lines_are_cut_as_liblxc_does() {
        for (text, expected) in [
            ("", vec![]),
            ("lxc.a=b", vec![(1, 1, "lxc.a", Some("b"))]),
            ("\n \t lxc.a \t=\t b c \t\n", vec![(2, 4, "lxc.a", Some("b c"))]),
            ("#lxc.a = b\n # lxc.a = b\nfoo.a = b\nlxc = a\n\x0clxc.a = b\n", vec![]),
            ("lxc.a = b # no comment", vec![(1, 1, "lxc.a", Some("b # no comment"))]),
            (
                "lxc.a = b\rlxc.c = d\r\nlxc.e = f",
                vec![(1, 1, "lxc.a", Some("b")), (1, 11, "lxc.c", Some("d")), (2, 1, "lxc.e", Some("f"))],
            ),
            ("lxc.a = b\\\nlxc.c = d", vec![(1, 1, "lxc.a", Some("b\\")), (2, 1, "lxc.c", Some("d"))]),
            ("lxc.a", vec![(1, 1, "lxc.a", None)]),
            ("lxc.a =", vec![(1, 1, "lxc.a", Some(""))]),
            ("lxc.a = = b", vec![(1, 1, "lxc.a", Some("= b"))]),
            ("lxc.a = \" b \"", vec![(1, 1, "lxc.a", Some(" b "))]),
            ("lxc.a = ''", vec![(1, 1, "lxc.a", Some(""))]),
            ("lxc.a = \"", vec![(1, 1, "lxc.a", Some("\""))]),
            ("lxc.a = 'b\"", vec![(1, 1, "lxc.a", Some("'b\""))]),
            ("lxc.a = ''b''", vec![(1, 1, "lxc.a", Some("'b'"))]),
            ("lxc.a = b\0lxc.c = d", vec![(1, 1, "lxc.a", Some("b"))]),
        ] {
            assert_eq!(cut(text), expected, "{text:?}");
        }
    }
}

//! Extended headers of POSIX `pax` archives: records of `LENGTH KEY=VALUE\n` (`man 5 tar`, "Pax Interchange Format").
//!
//! Values are bytes and may hold anything, line ends too: extended attributes do.

use rustix::fs::Timespec;

use crate::storage::image::layer::sparse::decimal;

/// The records of one extended header, in order.
#[derive(Debug, Default)]
pub(crate) struct Records(Vec<(Vec<u8>, Vec<u8>)>);

impl Records {
    /// `None` if the text is malformed.
    pub(crate) fn parse(mut text: &[u8]) -> Option<Self> {
        let mut records = Vec::new();
        while !text.is_empty() {
            let space = text.iter().position(|&b| b == b' ')?;
            let length = usize::try_from(decimal(&text[..space])?).ok()?;
            let record = text.get(space + 1..length)?.strip_suffix(b"\n")?;
            let equals = record.iter().position(|&b| b == b'=')?;
            if equals == 0 {
                return None;
            }
            records.push((record[..equals].to_vec(), record[equals + 1..].to_vec()));
            text = &text[length..];
        }
        Some(Self(records))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The value of `key`; of several the last counts, and an empty one takes it back.
    pub(crate) fn get(&self, key: &str) -> Option<&[u8]> {
        let found = self.0.iter().rev().find(|(name, _)| name == key.as_bytes());
        found.map(|(_, value)| value.as_slice()).filter(|value| !value.is_empty())
    }

    /// All values of the keys that begin with `prefix`, with the rest of the key.
    pub(crate) fn beneath<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a [u8], &'a [u8])> {
        self.0.iter().filter_map(move |(key, value)| {
            key.strip_prefix(prefix.as_bytes()).map(|rest| (rest, value.as_slice()))
        })
    }

    pub(crate) fn push(&mut self, key: &[u8], value: &[u8]) {
        self.0.push((key.to_vec(), value.to_vec()));
    }

    /// The text of an extended header.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut text = Vec::new();
        for (key, value) in &self.0 {
            // A space, '=' and a line end; and the length counts its own digits.
            let rest = key.len() + value.len() + 3;
            let mut length = rest + 1;
            while rest + length.to_string().len() != length {
                length = rest + length.to_string().len();
            }
            text.extend_from_slice(format!("{length} ").as_bytes());
            text.extend_from_slice(key);
            text.push(b'=');
            text.extend_from_slice(value);
            text.push(b'\n');
        }
        text
    }
}

/// A time as these headers have it: seconds since 1970, perhaps negative, perhaps with a fraction.
pub(crate) fn time(text: &[u8]) -> Option<Timespec> {
    let text = std::str::from_utf8(text).ok()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let negative = whole.starts_with('-');
    let mut seconds: i64 = whole.parse().ok()?;
    if !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let digits = &fraction.as_bytes()[..fraction.len().min(9)];
    let mut nanoseconds = digits.iter().fold(0_i64, |n, b| n * 10 + i64::from(b - b'0'));
    nanoseconds *= 10_i64.pow(9 - u32::try_from(digits.len()).ok()?);
    if negative && nanoseconds != 0 {
        seconds = seconds.checked_sub(1)?;
        nanoseconds = 1_000_000_000 - nanoseconds;
    }
    Some(Timespec { tv_sec: seconds, tv_nsec: nanoseconds })
}

/// The shortest text of `time`.
pub(crate) fn time_text(time: Timespec) -> String {
    if time.tv_nsec == 0 {
        return time.tv_sec.to_string();
    }
    let (sign, seconds, nanoseconds) = if time.tv_sec < 0 {
        ("-", -(time.tv_sec + 1), 1_000_000_000 - time.tv_nsec)
    } else {
        ("", time.tv_sec, time.tv_nsec)
    };
    format!("{sign}{seconds}.{nanoseconds:09}").trim_end_matches('0').to_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn records_are_parsed_by_length() {
        let records = Records::parse(b"16 SCHILY.x=a\nb\n12 path=one\n12 path=two\n11 size=12\n").unwrap();
        assert_eq!(records.get("SCHILY.x"), Some(&b"a\nb"[..]));
        assert_eq!(records.get("path"), Some(&b"two"[..]));
        assert_eq!(records.get("uid"), None);
        assert_eq!(records.beneath("SCHILY.").collect::<Vec<_>>(), [(&b"x"[..], &b"a\nb"[..])]);
    }

    #[test]
    fn malformed_records_are_none() {
        for bad in [
            "5",
            "5 a=",
            "6 a=b",
            "7 a=b\n",
            "5 ab\n",
            "5 =b\n",
            "0 a=b\n",
            "99999999999999999999 a=b\n",
            "x a=b\n",
        ] {
            assert!(Records::parse(bad.as_bytes()).is_none(), "{bad:?}");
        }
    }

    #[test]
    fn times_have_signs_and_fractions() {
        let check = |text: &str, tv_sec, tv_nsec| {
            assert_eq!(time(text.as_bytes()), Some(Timespec { tv_sec, tv_nsec }), "{text}");
        };
        check("0", 0, 0);
        check("1.5", 1, 500_000_000);
        check("1.0000000019", 1, 1);
        check("-1", -1, 0);
        check("-0.25", -1, 750_000_000);
        check("-1.25", -2, 750_000_000);
        for bad in ["", ".", "x", "1.x", "1.-1", "99999999999999999999"] {
            assert_eq!(time(bad.as_bytes()), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn records_come_back(records in proptest::collection::vec(("[a-zA-Z.]{1,120}", proptest::collection::vec(any::<u8>(), 0..2000)), 0..5)) {
            let mut written = Records::default();
            records.iter().for_each(|(key, value)| written.push(key.as_bytes(), value));
            prop_assert_eq!(Records::parse(&written.encode()).unwrap().0, written.0);
        }

        #[test]
        fn no_text_panics(text in proptest::collection::vec(prop_oneof![Just(b'='), Just(b' '), Just(b'\n'), b'0'..=b'9', any::<u8>()], 0..40)) {
            let _ = Records::parse(&text);
            let _ = time(&text);
        }

        #[test]
        fn times_come_back(tv_sec in -10_000_000_000_i64..10_000_000_000, tv_nsec in prop_oneof![Just(0), 0_i64..1_000_000_000]) {
            let written = Timespec { tv_sec, tv_nsec };
            prop_assert_eq!(time(time_text(written).as_bytes()), Some(written));
        }
    }
}

//! Which kernel this is (`man 2 uname`).

/// Major and minor number of a release: of "6.1.0-18-amd64" they are 6 and 1.
pub(crate) fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.trim().split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_read() {
        for (release, expected) in [
            ("6.1.0-28-amd64", Some((6, 1))),
            ("5.10.0", Some((5, 10))),
            ("6.18.44-rc1+", Some((6, 18))),
            ("x", None),
        ] {
            assert_eq!(version(release), expected, "{release}");
        }
    }
}

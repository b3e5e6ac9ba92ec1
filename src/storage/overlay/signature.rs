//! What an overlay is called in the list of mounts (`man 5 proc_pid_mountinfo`), by which it is known again.

use std::ffi::OsStr;

use crate::idmap::IdMap;
use crate::storage::Digest;
use crate::storage::overlay::directory::Directory;
use crate::storage::overlay::top::Top;

/// What an overlay is called in the list of mounts, where it tells which one it is: paths do not tell an exchanged
/// directory, and of a map nothing else is shown.
pub(super) fn source(layers: &[Directory], top: Option<&Top>, map: Option<&IdMap>) -> String {
    let upper = top.map(|top| Directory::fingerprint([&top.upper, &top.work]));
    let ids = map.map(ids);
    let or_none = |part: Option<String>| part.unwrap_or_else(|| "none".to_owned());
    let layers = Directory::fingerprint(layers);
    format!("docklet:layers={layers},upper={},ids={}", or_none(upper), or_none(ids))
}

/// What a map is called.
pub(super) fn ids(map: &IdMap) -> String {
    Digest::of(map.to_string().as_bytes()).short()
}

/// In what a mounted overlay is another than the wanted one, by what they are called.
pub(super) fn differences(shown: &OsStr, wanted: &str) -> Vec<String> {
    let shown = shown.to_string_lossy();
    let Some(parts) = shown.strip_prefix("docklet:") else {
        return vec![format!("it was not mounted by docklet: its source is `{shown}`")];
    };
    let of = |text: &str, key: &str| {
        text.split(',').find_map(|part| part.strip_prefix(key)?.strip_prefix('=').map(str::to_owned))
    };
    let wanted = wanted.trim_start_matches("docklet:");
    [
        ("layers", "it was mounted from other layers, or in another order"),
        ("upper", "it writes to another upper directory, perhaps an earlier one of that name, or to one where none was asked for"),
        ("ids", "it has another id map"),
    ]
    .into_iter()
    .filter(|(key, _)| of(parts, key) != of(wanted, key))
    .map(|(_, difference)| difference.to_owned())
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_named() {
        let wanted = "docklet:layers=1,upper=2,ids=none";
        for (shown, expected) in [
            (wanted, vec![]),
            ("docklet:layers=9,upper=2,ids=none", vec!["other layers"]),
            ("docklet:layers=1,upper=none,ids=none", vec!["another upper"]),
            ("docklet:layers=9,upper=2,ids=8", vec!["other layers", "another id map"]),
            ("docklet:layers=1", vec!["another upper", "another id map"]),
            ("overlay", vec!["its source is `overlay`"]),
        ] {
            let found = differences(OsStr::new(shown), wanted);
            assert_eq!(found.len(), expected.len(), "{shown}: {found:?}");
            assert!(found.iter().zip(&expected).all(|(f, e)| f.contains(e)), "{shown}: {found:?}");
        }
    }
}

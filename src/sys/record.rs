//! Small files of JSON that outlive the process that wrote them: each says which version of its format it has. See
//! `man 2 rename` for how they are replaced, which is [`publish`](crate::sys::file::publish)'s part.

use std::io;
use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// `record` as it is written to `path`: for people to read, too.
pub(crate) fn encode(record: &impl Serialize, path: &Path) -> Result<Vec<u8>> {
    serde_json::to_vec_pretty(record).map_err(|e| Error::os("serialize", path.display(), io::Error::other(e)))
}

/// What `text`, which was read from `path`, says; its member `format` is `newest` at most.
pub(crate) fn decode<R: DeserializeOwned>(text: &str, path: &Path, newest: u32) -> Result<R> {
    #[derive(Deserialize)]
    struct Versioned {
        format: u32,
    }
    let damaged = |e: serde_json::Error| Error::Damaged {
        what: format!("record `{}`", path.display()),
        reason: format!("it cannot be read ({e}): repair the file, or move it away"),
    };
    // The version first: a newer file may have fields that this version cannot read.
    let Versioned { format } = serde_json::from_str(text).map_err(damaged)?;
    if format > newest {
        return Err(Error::Unsupported {
            what: format!("reading {}", path.display()),
            needs: format!(
                "it has format {format} and this version reads up to {newest}; use the newer docklet"
            ),
        });
    }
    serde_json::from_str(text).map_err(damaged)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Sample {
        format: u32,
        name: String,
    }

    #[test]
    fn records_are_read_as_they_are_written() {
        let (path, sample) = (Path::new("/x.json"), Sample { format: 2, name: "a".to_owned() });
        let text = String::from_utf8(encode(&sample, path).unwrap()).unwrap();
        assert_eq!(decode::<Sample>(&text, path, 2).unwrap(), sample);
        for (bad, expected) in [
            (r#"{"format": 3, "unknown": 1}"#, "has format 3"),
            (r#"{"format": 2, "name": "a", "unknown": 1}"#, "unknown field"),
            (r#"{"name": "a"}"#, "missing field"),
            ("", "EOF"),
        ] {
            let message = decode::<Sample>(bad, path, 2).unwrap_err().to_string();
            assert!(message.contains(expected) && message.contains("/x.json"), "{bad}: {message}");
        }
    }
}

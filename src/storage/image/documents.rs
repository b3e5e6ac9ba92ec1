//! The OCI documents of images that are made here: configurations and manifests (OCI image specification, `config.md`
//! and `manifest.md`).
//!
//! What an imported configuration says stays, also what is not known here: a layer is added to it, and nothing else.

use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::error::{Error, Result};
use crate::storage::image::compression::Compression;
use crate::storage::image::content::Layer;
use crate::storage::image::digest::Digest;
use crate::storage::image::oci::{LAYER, MANIFEST, Platform};

const CONFIG_TYPE: &str = "application/vnd.oci.image.config.v1+json";

/// How a layer came about, as the configuration's history tells it.
pub(crate) struct Step<'a> {
    /// What made it: "docklet commit web".
    pub(crate) by: &'a str,
    pub(crate) comment: &'a str,
}

/// The configuration of an image without layers, for this host's kind of processor.
pub(crate) fn empty_config() -> Value {
    let Platform { architecture, os } = Platform::host();
    json!({
        "architecture": architecture,
        "os": os,
        "config": {},
        "rootfs": { "type": "layers", "diff_ids": [] },
        "history": [],
    })
}

/// Puts one more layer on top of what `config` describes.
pub(crate) fn add_layer(config: &mut Value, diff_id: &Digest, step: &Step<'_>) -> Result<()> {
    let now = rfc3339(SystemTime::now());
    let config = config.as_object_mut().ok_or_else(|| malformed("it is no object"))?;
    config.insert("created".to_owned(), json!(now));
    match config.get_mut("rootfs").and_then(|rootfs| rootfs.get_mut("diff_ids")) {
        Some(Value::Array(diff_ids)) => diff_ids.push(json!(diff_id)),
        // As Go writes an empty list.
        Some(diff_ids @ Value::Null) => *diff_ids = json!([diff_id]),
        _ => return Err(malformed("it has no list of layers")),
    }
    let mut entry = Map::new();
    entry.insert("created".to_owned(), json!(now));
    entry.insert("created_by".to_owned(), json!(step.by));
    if !step.comment.is_empty() {
        entry.insert("comment".to_owned(), json!(step.comment));
    }
    // It is optional, and `null` in what some tools write.
    match config.entry("history").or_insert(Value::Null) {
        Value::Array(history) => history.push(Value::Object(entry)),
        history => *history = json!([entry]),
    }
    Ok(())
}

/// The manifest of a configuration of `config_bytes` bytes and these layers.
pub(crate) fn manifest(
    config: &Digest,
    config_bytes: u64,
    layers: &[(&Layer, Compression)],
) -> Result<Vec<u8>> {
    let layers: Vec<Value> = layers
        .iter()
        .map(|(layer, compression)| {
            json!({ "mediaType": layer_type(*compression), "digest": layer.blob, "size": layer.size_bytes })
        })
        .collect();
    bytes(&json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": { "mediaType": CONFIG_TYPE, "digest": config, "size": config_bytes },
        "layers": layers,
    }))
}

/// `document` as it is stored.
pub(crate) fn bytes(document: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(document)
        .map_err(|e| Error::os("serialize", "an image's document", std::io::Error::other(e)))
}

fn malformed(reason: &str) -> Error {
    Error::Damaged { what: "image configuration".to_owned(), reason: reason.to_owned() }
}

fn layer_type(compression: Compression) -> String {
    match compression {
        Compression::None => LAYER.to_owned(),
        other => format!("{LAYER}+{other}"),
    }
}

/// A time as RFC 3339 writes it, to the second, in UTC.
fn rfc3339(time: SystemTime) -> String {
    let seconds = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Howard Hinnant's calendar: years that begin in March, in eras of 400.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::storage::image::oci::parse;

    #[test]
    fn times_are_written_as_the_specification_asks() {
        // As `date -u -d @N +%FT%TZ` writes them.
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_709_251_199, "2024-02-29T23:59:59Z"),
            (1_735_689_599, "2024-12-31T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(rfc3339(UNIX_EPOCH + Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn a_layer_is_added_and_what_is_unknown_stays() {
        let digest = Digest::of(b"layer");
        let mut config: Value =
            parse("a document", br#"{"rootfs": {"diff_ids": []}, "history": null, "x": {"y": 1}}"#).unwrap();
        for comment in ["", "why"] {
            add_layer(&mut config, &digest, &Step { by: "test", comment }).unwrap();
        }
        assert_eq!(config["x"]["y"], 1);
        assert_eq!(config["rootfs"]["diff_ids"], json!([digest, digest]));
        assert_eq!(config["history"][0]["created_by"], "test");
        assert!(config["history"][0].get("comment").is_none());
        assert_eq!(config["history"][1]["comment"], "why");
        let mut none: Value = parse("a document", br#"{"rootfs": {"diff_ids": null}}"#).unwrap();
        add_layer(&mut none, &digest, &Step { by: "test", comment: "" }).unwrap();
        assert_eq!(none["rootfs"]["diff_ids"], json!([digest]));
        for bad in ["[]", "{}", r#"{"rootfs": {"diff_ids": {}}}"#] {
            let mut bad: Value = parse("a document", bad.as_bytes()).unwrap();
            add_layer(&mut bad, &digest, &Step { by: "", comment: "" }).unwrap_err();
        }
    }
}

//! What `lvm fullreport` says (`man 7 lvmreport`): volume groups with their disks and volumes.
//!
//! One command for all of it: a report with fields of volumes leaves out groups that have none.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::command;
use crate::error::{Error, Result};

const GROUP_FIELDS: &str = "vg_name,vg_uuid,vg_tags,vg_size,vg_free,vg_extent_size,vg_missing_pv_count";
const DISK_FIELDS: &str = "pv_name,pv_missing";
const VOLUME_FIELDS: &str = "lv_name,lv_tags,lv_size,lv_layout,lv_active,origin,origin_size,pool_lv,data_percent,\
                             metadata_percent,lv_snapshot_invalid,lv_merging";

/// What the host's `lvm.conf` may say otherwise, and must not: it changes what a report looks like.
const SETTINGS: &str =
    "report{binary_values_as_numeric=0 prefixes=0 quoted=1} log{verbose=0 report_command_log=0}";

/// A volume group as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Group {
    pub(super) name: String,
    pub(super) uuid: String,
    pub(super) tags: Vec<String>,
    pub(super) size_bytes: u64,
    pub(super) free_bytes: u64,
    pub(super) extent_bytes: u64,
    /// How many of its disks are not there.
    pub(super) missing: u64,
    /// The disks that are there.
    pub(super) disks: Vec<String>,
    pub(super) volumes: Vec<LogicalVolume>,
}

/// A logical volume as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LogicalVolume {
    pub(super) name: String,
    pub(super) tags: Vec<String>,
    /// Of a linear volume's snapshot: its reserve.
    pub(super) size_bytes: u64,
    pub(super) layout: Layout,
    pub(super) active: bool,
    /// Of a linear volume's snapshot: the size of its origin.
    pub(super) origin_bytes: u64,
    /// The thin pool it is in.
    pub(super) pool: String,
    /// How full it is, in hundredths of a percent. `None` while it is not active.
    pub(super) data: Option<u32>,
    /// How full a thin pool's metadata is, likewise.
    pub(super) metadata: Option<u32>,
    /// A snapshot that overflowed.
    pub(super) invalid: bool,
    /// A snapshot on its way into its origin.
    pub(super) merging: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    Linear,
    /// A snapshot of a linear volume.
    LinearSnapshot,
    Thin,
    ThinPool,
    /// Nothing that is made here.
    Other,
}

impl Group {
    pub(super) fn find(&self, volume: &str) -> Option<&LogicalVolume> {
        self.volumes.iter().find(|found| found.name == volume)
    }
}

impl LogicalVolume {
    /// What it takes of its group or its thin pool, in bytes.
    pub(super) fn held_bytes(&self) -> u64 {
        match (self.layout, self.data) {
            (Layout::Thin | Layout::ThinPool, Some(data)) => part(self.size_bytes, data),
            (Layout::Thin, None) => 0,
            _ => self.size_bytes,
        }
    }
}

/// `hundredths` of a percent of `bytes`.
pub(super) fn part(bytes: u64, hundredths: u32) -> u64 {
    u64::try_from(u128::from(bytes) * u128::from(hundredths) / 10_000).unwrap_or(u64::MAX)
}

/// All volume groups that this host sees.
pub(super) fn groups() -> Result<Vec<Group>> {
    let text = command::run(&[
        "fullreport",
        "--reportformat",
        "json",
        "--units",
        "b",
        "--nosuffix",
        "--config",
        SETTINGS,
        "--configreport",
        "vg",
        "-o",
        GROUP_FIELDS,
        "--configreport",
        "pv",
        "-o",
        DISK_FIELDS,
        "--configreport",
        "lv",
        "-o",
        VOLUME_FIELDS,
        "--configreport",
        "pvseg",
        "-o",
        "pvseg_start",
        "--configreport",
        "seg",
        "-o",
        "seg_start",
    ])?;
    parse(&text)
}

type Row = BTreeMap<String, String>;

#[derive(Deserialize)]
struct Document {
    report: Vec<Part>,
}

#[derive(Deserialize)]
struct Part {
    #[serde(default)]
    vg: Vec<Row>,
    #[serde(default)]
    pv: Vec<Row>,
    #[serde(default)]
    lv: Vec<Row>,
}

fn parse(text: &str) -> Result<Vec<Group>> {
    let unreadable = |reason: String| Error::Command {
        program: "lvm fullreport".to_owned(),
        status: "a report that cannot be read".to_owned(),
        stderr: reason,
    };
    let document: Document = serde_json::from_str(text).map_err(|e| unreadable(e.to_string()))?;
    let mut groups = Vec::new();
    for part in document.report {
        // Disks that belong to no group have a part of their own.
        let Some(row) = part.vg.first().filter(|row| !word(row, "vg_name").is_empty()) else { continue };
        let group = (|| {
            Some(Group {
                name: row.get("vg_name")?.clone(),
                uuid: row.get("vg_uuid")?.clone(),
                tags: tags(row, "vg_tags"),
                size_bytes: number(row, "vg_size")?,
                free_bytes: number(row, "vg_free")?,
                extent_bytes: number(row, "vg_extent_size")?,
                missing: number(row, "vg_missing_pv_count")?,
                disks: part
                    .pv
                    .iter()
                    .filter(|disk| word(disk, "pv_missing").is_empty())
                    .map(|disk| word(disk, "pv_name").to_owned())
                    .collect(),
                volumes: part.lv.iter().map(volume).collect::<Option<_>>()?,
            })
        })();
        groups.push(group.ok_or_else(|| unreadable(format!("a field is missing in {row:?} or below")))?);
    }
    Ok(groups)
}

fn volume(row: &Row) -> Option<LogicalVolume> {
    let layout = match word(row, "lv_layout") {
        "linear" if word(row, "origin").is_empty() => Layout::Linear,
        "linear" => Layout::LinearSnapshot,
        "thin,sparse" => Layout::Thin,
        "thin,pool" => Layout::ThinPool,
        _ => Layout::Other,
    };
    Some(LogicalVolume {
        name: row.get("lv_name")?.clone(),
        tags: tags(row, "lv_tags"),
        size_bytes: number(row, "lv_size")?,
        layout,
        active: word(row, "lv_active") == "active",
        origin_bytes: number(row, "origin_size").unwrap_or(0),
        pool: word(row, "pool_lv").to_owned(),
        data: percent(word(row, "data_percent")),
        metadata: percent(word(row, "metadata_percent")),
        invalid: word(row, "lv_snapshot_invalid") == "snapshot invalid",
        merging: word(row, "lv_merging") == "merging",
    })
}

fn word<'a>(row: &'a Row, field: &str) -> &'a str {
    row.get(field).map_or("", String::as_str)
}

fn number(row: &Row, field: &str) -> Option<u64> {
    word(row, field).parse().ok()
}

fn tags(row: &Row, field: &str) -> Vec<String> {
    word(row, field).split(',').filter(|tag| !tag.is_empty()).map(str::to_owned).collect()
}

/// Hundredths: "4.59" is 459.
fn percent(text: &str) -> Option<u32> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let hundredths: u32 = format!("{fraction:0<2}").get(..2)?.parse().ok()?;
    whole.parse::<u32>().ok()?.checked_mul(100)?.checked_add(hundredths)
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPORT: &str = r#"{"report": [
        {"vg": [{"vg_name":"vg0","vg_uuid":"SrB68d","vg_tags":"docklet","vg_size":"1069547520","vg_free":"423624704",
                 "vg_extent_size":"4194304","vg_missing_pv_count":"1"}],
         "pv": [{"pv_name":"/dev/loop0","pv_missing":""}, {"pv_name":"[unknown]","pv_missing":"missing"}],
         "lv": [
            {"lv_name":"pool","lv_tags":"","lv_size":"536870912","lv_layout":"thin,pool","lv_active":"active",
             "origin":"","origin_size":"","pool_lv":"","data_percent":"1.20","metadata_percent":"11.04",
             "lv_snapshot_invalid":"unknown","lv_merging":""},
            {"lv_name":"lin","lv_tags":"docklet,docklet.phase=made","lv_size":"67108864","lv_layout":"linear",
             "lv_active":"","origin":"","origin_size":"","pool_lv":"","data_percent":"","metadata_percent":"",
             "lv_snapshot_invalid":"unknown","lv_merging":""},
            {"lv_name":"snap","lv_tags":"","lv_size":"16777216","lv_layout":"linear","lv_active":"active",
             "origin":"lin","origin_size":"67108864","pool_lv":"","data_percent":"100.00","metadata_percent":"",
             "lv_snapshot_invalid":"snapshot invalid","lv_merging":"merging"}],
         "pvseg": [], "seg": []},
        {"vg": [{"vg_name":"vg0","vg_uuid":"other","vg_tags":"","vg_size":"1","vg_free":"0","vg_extent_size":"1",
                 "vg_missing_pv_count":"0"}], "pv": [], "lv": []},
        {"pv": [{"pv_name":"/dev/sdb","pv_missing":""}]}
    ]}"#;

    #[test]
    fn a_report_is_read() {
        let groups = parse(REPORT).unwrap();
        assert_eq!(groups.len(), 2, "two groups of one name, a disk of none");
        let group = &groups[0];
        assert_eq!(
            (group.uuid.as_str(), group.missing, group.disks.as_slice()),
            ("SrB68d", 1, &["/dev/loop0".to_owned()][..])
        );
        let pool = group.find("pool").unwrap();
        assert_eq!((pool.layout, pool.data, pool.metadata), (Layout::ThinPool, Some(120), Some(1104)));
        assert_eq!(pool.held_bytes(), 6_442_450, "1.2 % of 512 MiB");
        let linear = group.find("lin").unwrap();
        assert_eq!((linear.layout, linear.active, linear.held_bytes()), (Layout::Linear, false, 67_108_864));
        assert_eq!(linear.tags, ["docklet", "docklet.phase=made"]);
        let snapshot = group.find("snap").unwrap();
        assert_eq!((snapshot.layout, snapshot.origin_bytes), (Layout::LinearSnapshot, 67_108_864));
        assert!(snapshot.invalid && snapshot.merging && snapshot.data == Some(10_000));
        assert_eq!(group.find("none"), None);
    }

    #[test]
    fn a_host_without_groups_has_none() {
        assert_eq!(parse(r#"{"report": [{"vg": []}]}"#).unwrap(), []);
        assert_eq!(parse(r#"{"report": []}"#).unwrap(), []);
    }

    #[test]
    fn what_cannot_be_read_is_an_error() {
        for bad in ["", "garbage", "{}", "[1]", r#"{"report": [{"vg": [{"vg_name":"x"}]}]}"#, &REPORT[..400]]
        {
            assert!(matches!(parse(bad), Err(Error::Command { .. })), "{bad}");
        }
        let bad_number = REPORT.replace("\"67108864\",\"lv_layout", "\"64m\",\"lv_layout");
        assert!(parse(&bad_number).is_err());
    }

    #[test]
    fn percents_are_exact() {
        for (text, expected) in [
            ("4.59", Some(459)),
            ("100.00", Some(10_000)),
            ("7", Some(700)),
            ("0.5", Some(50)),
            ("", None),
            ("x", None),
            ("-1.00", None),
        ] {
            assert_eq!(percent(text), expected, "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_parsed_without_a_panic(text in ".{0,80}", number in "[0-9.]{0,30}") {
            let _ = parse(&text);
            let _ = percent(&text);
            let _ = percent(&number);
        }
    }
}

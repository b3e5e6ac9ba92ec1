//! Input and output on one device (`Documentation/admin-guide/cgroup-v2.rst`, `io.max`; `cgroup-v1/blkio-controller.rst`).

use serde::{Deserialize, Serialize};

use super::limit::Limit;
use crate::error::{Error, Result};

/// The kernel counts operations in 32 bits.
const MOST_OPERATIONS: u64 = u32::MAX as u64;

/// How much may be read from and written to one device in a second. A field left `None` stays as it is: no limit, for a new group.
///
/// What exceeds a limit waits; nothing fails. v2 (`io.max`) also holds back what is written through the page cache,
/// v1 (`blkio.throttle.*`) only direct and synchronous writes, and reads: what the kernel writes back later is nobody's there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct IoLimits {
    /// Bytes read in a second (`rbps`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub read_bytes_per_second: Option<Limit>,
    /// Bytes written in a second (`wbps`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub write_bytes_per_second: Option<Limit>,
    /// Reads in a second (`riops`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub read_operations_per_second: Option<Limit>,
    /// Writes in a second (`wiops`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub write_operations_per_second: Option<Limit>,
}

impl IoLimits {
    /// The keys of `io.max`, and v1's files, in the order of [`IoLimits::fields`].
    pub(crate) const KEYS: [(&str, &str); 4] = [
        ("rbps", "blkio.throttle.read_bps_device"),
        ("wbps", "blkio.throttle.write_bps_device"),
        ("riops", "blkio.throttle.read_iops_device"),
        ("wiops", "blkio.throttle.write_iops_device"),
    ];

    pub(super) fn fields(&self) -> [Option<Limit>; 4] {
        [
            self.read_bytes_per_second,
            self.write_bytes_per_second,
            self.read_operations_per_second,
            self.write_operations_per_second,
        ]
    }

    pub(crate) fn from_fields(fields: [Option<Limit>; 4]) -> Self {
        let [
            read_bytes_per_second,
            write_bytes_per_second,
            read_operations_per_second,
            write_operations_per_second,
        ] = fields;
        Self {
            read_bytes_per_second,
            write_bytes_per_second,
            read_operations_per_second,
            write_operations_per_second,
        }
    }

    pub(super) fn validate(&self) -> Result<()> {
        for (limit, (key, _)) in self.fields().into_iter().zip(Self::KEYS) {
            let most = if key.ends_with("iops") { MOST_OPERATIONS } else { i64::MAX as u64 };
            if let Some(Limit::At(value)) = limit
                && !(1..=most).contains(&value)
            {
                let rule = "must be from 1 (to 4294967295, for operations), or \"max\" for no limit";
                return Err(Error::invalid("io limit", format!("{key}={value}"), rule));
            }
        }
        Ok(())
    }

    /// These, and no limit where only `old` has one.
    pub(super) fn releasing(&self, old: &Self) -> Self {
        let mut fields = self.fields();
        for (new, old) in fields.iter_mut().zip(old.fields()) {
            *new = new.or(old.map(|_| Limit::Max));
        }
        Self::from_fields(fields)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_and_too_much_are_refused() {
        for (fields, fits) in [
            ([Some(Limit::At(1)), None, None, Some(Limit::At(1))], true),
            ([Some(Limit::Max); 4], true),
            ([None, Some(Limit::At(0)), None, None], false),
            ([Some(Limit::At(u64::MAX)), None, None, None], false),
            ([None, None, Some(Limit::At(1 << 32)), None], false),
        ] {
            let limits = IoLimits::from_fields(fields);
            assert_eq!(limits.validate().is_ok(), fits, "{limits:?}");
            assert_eq!(limits.fields(), fields);
        }
    }
}

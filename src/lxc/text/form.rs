//! What liblxc 5 takes as the value of a key when it reads a file. What it finds out only when the container starts is
//! not judged here.

use std::borrow::Cow;

use crate::lxc::text::LINE_MAX;
use crate::lxc::text::number::{
    Magnitude, Scanned, is_space, scan, signed, signed_prefix, skip_space, unsigned, unsigned_32,
};
use crate::lxc::text::words::{ARCHITECTURES, AUTO_MOUNTS, CAPABILITIES, LEVELS, NAMESPACES, SIGNALS};

/// The rule that a value breaks.
pub(crate) type Rule = Cow<'static, str>;

/// The form of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// Anything.
    Any,
    /// At most this many bytes.
    Short(usize),
    Path,
    /// A path that may have its type before it: `dir:/srv/root`.
    Root,
    /// From 0 to this.
    Number(u32),
    /// The same, but liblxc takes what is no number for "not given".
    LooseNumber(u32),
    Signed,
    Signal,
    Size,
    Arch,
    Facility,
    Level,
    DroppedCapabilities,
    KeptCapabilities,
    CgroupDir,
    CgroupName,
    IdMap,
    AutoMounts,
    Namespaces,
    Offset,
    ResourceLimit,
    RootOptions,
    Groups,
    Proxy,
    /// The key takes no value: it only clears.
    Nothing,
}

/// The kernel's last capability, from Linux 5.9 on.
const LAST_CAPABILITY: u32 = 40;

impl Form {
    /// Checks a value that is not empty.
    pub(crate) fn check(self, value: &[u8]) -> Result<(), Rule> {
        let (fits, rule) = match self {
            Self::Any => return Ok(()),
            Self::Short(most) => return short(value, most),
            Self::Path => return path(value),
            Self::Root => return root(value),
            Self::Number(most) => return number(value, most),
            Self::LooseNumber(most) => return loose_number(value, most),
            Self::DroppedCapabilities => return capabilities(value, false),
            Self::KeptCapabilities => return capabilities(value, true),
            Self::CgroupDir => return cgroup_dir(value),
            Self::AutoMounts => return auto_mounts(value),
            Self::Namespaces => return namespaces(value),
            Self::RootOptions => return root_options(value),
            Self::Signed => {
                (signed(value).is_some_and(|n| i32::try_from(n).is_ok()), "must be a number of 32 bits")
            }
            Self::Signal => (
                is_signal(value),
                "must be a signal: a number, SIGPWR and the like, SIGRTMIN+N or SIGRTMAX-N with N up to 30",
            ),
            Self::Size => {
                (is_size(value), "must be `auto`, or a number of bytes, or one with KB, MB or GB after it")
            }
            Self::Arch => {
                (is_one_of(value, &ARCHITECTURES), "must be an architecture: x86_64, i686, arm64 …")
            }
            Self::Facility => {
                (is_facility(value), "must be a facility of syslog: daemon, or local0 to local7")
            }
            Self::Level => (
                is_level(value),
                "must be a level: trace, debug, info, notice, warn, error, crit, alert, fatal, or 0 to 8",
            ),
            Self::CgroupName => (
                !value.contains(&b'/') && value != b"." && value != b"..",
                "must be the name of one directory",
            ),
            Self::IdMap => (
                is_id_map(value),
                "must be `u` or `g`, then the first id inside, the first id on the host, and how many: u 0 100000 65536",
            ),
            Self::Offset => (
                is_offset(value),
                "must be a number with its unit (h, m, s, ms, us, ns); with a minus in s or ns only",
            ),
            Self::ResourceLimit => (
                is_resource_limit(value),
                "must be a number or `unlimited`, or two of them (the soft and the hard limit) with `:` between",
            ),
            Self::Groups => {
                (is_groups(value), "must be group ids with commas between: numbers from 0 to 4294967295")
            }
            Self::Proxy => (
                is_proxy(value),
                "must be a socket: unix:/PATH or unix:@NAME, with at most 107 bytes after `unix:`",
            ),
            Self::Nothing => (false, "clears the whole group and takes no value: leave it empty"),
        };
        if fits { Ok(()) } else { Err(rule.into()) }
    }
}

/// The parts of `value`, as `strtok` cuts it.
pub(crate) fn parts<'a>(value: &'a [u8], separators: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
    value.split(move |b| separators.contains(b)).filter(|word| !word.is_empty())
}

fn is_one_of(value: &[u8], list: &[&str]) -> bool {
    list.iter().any(|name| name.as_bytes() == value)
}

fn short(value: &[u8], most: usize) -> Result<(), Rule> {
    if value.len() <= most {
        return Ok(());
    }
    Err(format!("must have at most {most} bytes, and has {}", value.len()).into())
}

/// A path: liblxc measures it without doubled slashes and `.`.
fn path(value: &[u8]) -> Result<(), Rule> {
    let parts = value.split(|b| *b == b'/').filter(|part| !part.is_empty() && *part != b".");
    let length: usize = parts.map(|part| part.len() + 1).sum();
    // Each part has a slash before it, but the first of a relative path.
    if length < LINE_MAX + usize::from(!value.starts_with(b"/")) {
        return Ok(());
    }
    Err(format!("is too long: a path has at most {} bytes", LINE_MAX - 1).into())
}

/// The type of a root, and its path.
fn root(value: &[u8]) -> Result<(), Rule> {
    let (kind, place) = match value.iter().position(|b| *b == b':') {
        Some(colon) => (&value[..colon], &value[colon + 1..]),
        None => (&b""[..], value),
    };
    path(kind).and_then(|()| path(place))
}

fn number(value: &[u8], most: u32) -> Result<(), Rule> {
    if unsigned_32(value).is_some_and(|number| number <= most) {
        return Ok(());
    }
    Err(if most == 1 { "must be 0 or 1".into() } else { format!("must be a number from 0 to {most}").into() })
}

/// liblxc returns the C library's `errno` here, which is zero for what is no number.
fn loose_number(value: &[u8], most: u32) -> Result<(), Rule> {
    let is_judged = unsigned_32(value).is_some() || unsigned(value) == Some(Magnitude::Over);
    if is_judged { number(value, most) } else { Ok(()) }
}

fn capabilities(value: &[u8], may_be_none: bool) -> Result<(), Rule> {
    for word in parts(value, b" \t") {
        if word == b"none" && !may_be_none {
            return Err("`none` can only be kept: write lxc.cap.keep = none to drop all".into());
        }
        let known = word == b"none"
            || is_one_of(word, &CAPABILITIES)
            || unsigned_32(word).is_some_and(|number| number <= LAST_CAPABILITY);
        if !known {
            let word = String::from_utf8_lossy(&word[..word.len().min(40)]);
            return Err(format!(
                "{word:?} is no capability: write it in small letters without CAP_, as sys_admin, separated by blanks"
            )
            .into());
        }
    }
    Ok(())
}

fn cgroup_dir(value: &[u8]) -> Result<(), Rule> {
    if value.starts_with(b"/") {
        return Err("must be relative to the hierarchies' roots: leave the first `/` out".into());
    }
    if value.windows(2).any(|pair| pair == b"..") {
        return Err("must not contain `..`".into());
    }
    path(value)
}

fn auto_mounts(value: &[u8]) -> Result<(), Rule> {
    for word in parts(value, b" \t") {
        if !word.starts_with(b"shmounts:") && !is_one_of(word, &AUTO_MOUNTS) {
            let word = String::from_utf8_lossy(&word[..word.len().min(40)]);
            return Err(format!(
                "{word:?} cannot be mounted so: take proc, sys, cgroup, cgroup2 or cgroup-full, with :mixed, :ro or :rw"
            )
            .into());
        }
    }
    Ok(())
}

fn namespaces(value: &[u8]) -> Result<(), Rule> {
    for word in parts(value, b" \t") {
        if !NAMESPACES.iter().any(|name| name.as_bytes().eq_ignore_ascii_case(word)) {
            let word = String::from_utf8_lossy(&word[..word.len().min(40)]);
            return Err(format!("{word:?} is no namespace: take some of {}", NAMESPACES.join(", ")).into());
        }
    }
    Ok(())
}

fn root_options(value: &[u8]) -> Result<(), Rule> {
    for option in ["create=dir", "create=file", "optional", "relative"] {
        if value.windows(option.len()).any(|part| part == option.as_bytes()) {
            return Err(format!("`{option}` is for lxc.mount.entry, not for the root").into());
        }
    }
    Ok(())
}

fn is_signal(value: &[u8]) -> bool {
    let in_range = |number: u32| i32::try_from(number).is_ok();
    if value.first().is_some_and(u8::is_ascii_digit) {
        return unsigned_32(value).is_some_and(in_range);
    }
    let upper = value.to_ascii_uppercase();
    let Some(name) = upper.strip_prefix(b"SIG") else { return false };
    if let Some(name) = name.strip_prefix(b"RT") {
        let offset = name.strip_prefix(b"MIN+").or_else(|| name.strip_prefix(b"MAX-"));
        let offset = offset.filter(|digits| digits.first().is_some_and(u8::is_ascii_digit));
        return offset.and_then(unsigned_32).is_some_and(|offset| offset <= 30);
    }
    is_one_of(name, &SIGNALS)
}

fn is_size(value: &[u8]) -> bool {
    if value == b"auto" {
        return true;
    }
    let [.., last] = value else { return false };
    if value.len() > 21 || !last.is_ascii_alphanumeric() {
        return false;
    }
    let letters = value.iter().rev().take(2).take_while(|b| b.is_ascii_alphabetic()).count();
    let (digits, suffix) = value.split_at(value.len() - letters);
    let digits = digits.trim_ascii_end();
    let factor = match suffix.to_ascii_uppercase().as_slice() {
        b"KB" => 1_i64 << 10,
        b"MB" => 1 << 20,
        b"GB" => 1 << 30,
        // One letter is passed over.
        [] | [_] => 1,
        _ => return false,
    };
    let size = signed(digits).and_then(|number| number.checked_mul(factor));
    // Rounded up to a power of two it must still be one.
    size.is_some_and(|size| size >= 0)
}

fn is_facility(value: &[u8]) -> bool {
    let name = value.to_ascii_lowercase();
    name == b"daemon" || matches!(name.as_slice(), [b'l', b'o', b'c', b'a', b'l', b'0'..=b'7'])
}

fn is_level(value: &[u8]) -> bool {
    if value.first().is_some_and(u8::is_ascii_digit) {
        return signed(value).is_some_and(|level| (0..=8).contains(&level));
    }
    LEVELS.iter().any(|name| name.as_bytes().eq_ignore_ascii_case(value))
}

fn is_id_map(value: &[u8]) -> bool {
    let mut parts = parts(value, b" \t\r\n");
    let kind = parts.next();
    let is_number = |part: &[u8]| matches!(unsigned(part), Some(Magnitude::At(_)));
    let numbers: Vec<_> = parts.take(4).collect();
    matches!(kind, Some(b"u" | b"g")) && numbers.len() == 3 && numbers.into_iter().all(is_number)
}

fn is_offset(value: &[u8]) -> bool {
    let Some((number, rest)) = signed_prefix(value, 10) else { return false };
    if rest.len() > 2 {
        return false;
    }
    let factor = match rest.trim_ascii() {
        b"h" => 3600,
        b"m" => 60,
        b"ms" => 1_000_000,
        b"us" => 1000,
        b"s" | b"ns" => return true,
        _ => return false,
    };
    // liblxc's check for an overflow refuses every negative number.
    number >= 0 && number.checked_mul(factor).is_some()
}

fn is_resource_limit(value: &[u8]) -> bool {
    let Some(rest) = resource_limit(value) else { return false };
    let rest = match skip_space(rest) {
        [] => return true,
        [b':', rest @ ..] => skip_space(rest),
        _ => return false,
    };
    rest.is_empty() || resource_limit(rest).is_some_and(|rest| rest.iter().all(|b| is_space(*b)))
}

/// One limit; what follows it. No digits are a zero.
fn resource_limit(value: &[u8]) -> Option<&[u8]> {
    if let Some(rest) = value.strip_prefix(b"unlimited") {
        return Some(rest);
    }
    let Scanned { magnitude, rest, .. } = scan(value, 10);
    (magnitude != Some(Magnitude::Over)).then_some(rest)
}

fn is_groups(value: &[u8]) -> bool {
    let mut groups = parts(value, b",").peekable();
    groups.peek().is_some() && groups.all(|group| unsigned_32(group).is_some())
}

fn is_proxy(value: &[u8]) -> bool {
    let Some(path) = value.strip_prefix(b"unix:") else { return false };
    matches!(path, [b'/' | b'@', _, ..]) && path.len() <= 107
}

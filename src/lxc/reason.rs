//! Why LXC failed: its log's lines made into one that a person reads. Its own error code says nothing.

/// A log line is `PROGRAM NAME TIME LEVEL MODULE - FILE:FUNCTION:LINE - TEXT`.
struct Line<'a> {
    level: &'a str,
    function: &'a str,
    text: &'a str,
}

/// The first errors of `log`, which are the cause; later ones are what followed from it.
pub(crate) fn distill(log: &str) -> String {
    let lines: Vec<_> = log.lines().filter_map(parse).collect();
    let is_error = |line: &&Line<'_>| matches!(line.level, "ERROR" | "CRIT" | "ALERT" | "FATAL");
    let mut texts: Vec<&str> = Vec::new();
    let mut warning = None;
    for line in &lines {
        if is_error(&line) {
            if !is_consequence(line) && !texts.contains(&line.text) {
                texts.push(line.text);
            }
        } else if line.level == "WARN" {
            // The last warning before the first error often tells more than the error.
            if texts.is_empty() {
                warning = Some(line.text);
            }
        }
    }
    texts.truncate(3);
    match (texts.is_empty(), warning) {
        (false, _) => texts.join("; "),
        (true, Some(warning)) => warning.to_owned(),
        (true, None) => match lines.iter().rfind(is_error) {
            Some(line) => line.text.to_owned(),
            None => "LXC's log gives no reason".to_owned(),
        },
    }
}

/// The texts of all errors of `log`.
pub(crate) fn errors(log: &str) -> Vec<&str> {
    log.lines().filter_map(parse).filter(|line| line.level == "ERROR").map(|line| line.text).collect()
}

/// The texts of all lines of `log`.
pub(crate) fn texts(log: &str) -> impl Iterator<Item = &str> {
    log.lines().filter_map(parse).map(|line| line.text)
}

/// What LXC says after each failure, whatever its cause.
fn is_consequence(line: &Line<'_>) -> bool {
    const SAID_ALWAYS: [&str; 10] = [
        "An error occurred in another process",
        "Received container state",
        "Failed to setup container",
        "Failed to spawn container",
        "The container failed to start",
        "To get more details",
        "Additional information can be obtained",
        "Failed to setup mount entries",
        "lxc_spawn",
        "Failed to sync with parent",
    ];
    line.function == "sync_wait" || SAID_ALWAYS.iter().any(|start| line.text.starts_with(start))
}

fn parse(line: &str) -> Option<Line<'_>> {
    let (head, rest) = line.split_once(" - ")?;
    let (place, text) = rest.split_once(" - ")?;
    let level = head.split_ascii_whitespace().rev().nth(1)?;
    let function = place.split(':').nth(1)?;
    Some(Line { level, function, text: text.trim() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cause_is_found() {
        let log = "\
lxc-start x 20261123022000.100 WARN     cgfsng - ../src/lxc/cgroups/cgfsng.c:f:1 - Something odd
lxc-start x 20261123022000.100 ERROR    utils - ../src/lxc/utils.c:safe_mount:1198 - No such file or directory - Failed to mount \"/a\" onto \"/b\"
lxc-start x 20261123022000.100 ERROR    conf - ../src/lxc/conf.c:lxc_setup:4400 - Failed to setup mount entries
lxc-start x 20261123022000.101 ERROR    sync - ../src/lxc/sync.c:sync_wait:34 - An error occurred in another process (expected sequence number 4)
lxc-start x 20261123022000.101 ERROR    start - ../src/lxc/start.c:__lxc_start:2107 - Failed to spawn container \"x\"
";
        assert_eq!(distill(log), "No such file or directory - Failed to mount \"/a\" onto \"/b\"");
        assert_eq!(distill(""), "LXC's log gives no reason");
    }
}

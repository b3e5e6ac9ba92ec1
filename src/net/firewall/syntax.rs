//! What `nft` lists as JSON (`man 5 libnftables-json`), as the text that it reads (`man 8 nft`).
//!
//! The table is written as text, since `nft` 1.0.6 does not read its own JSON of a map to an address and a port; and read as
//! JSON, since texts vary. Only what [`rules`](super::rules) has is rendered as text; everything else stays JSON, and so is
//! never equal to a rule of ours.

use serde_json::Value;

/// A rule without what only says where it is.
pub(super) fn rule(rule: &Value) -> String {
    let statements = rule["expr"].as_array().map(Vec::as_slice).unwrap_or_default();
    let texts: Vec<_> = statements.iter().map(statement).collect();
    match rule.get("comment") {
        Some(comment) => format!("{} comment {comment}", texts.join(" ")),
        None => texts.join(" "),
    }
}

/// The declaration of a base chain.
pub(super) fn chain(chain: &Value) -> String {
    let part = |name: &str| chain[name].as_str().unwrap_or("-");
    let device = chain.get("dev").map(|device| format!(" device {device}")).unwrap_or_default();
    let (kind, hook, policy) = (part("type"), part("hook"), part("policy"));
    format!("type {kind} hook {hook}{device} priority {}; policy {policy};", chain["prio"])
}

/// The declaration of a set or a map.
pub(super) fn set(set: &Value) -> String {
    let types = types(set).join(" . ");
    let data = set["map"].as_str().map(|data| format!(" : {data}")).unwrap_or_default();
    let flags = set["flags"].as_array().map(Vec::as_slice).unwrap_or_default();
    let flags: String = flags.iter().map(|flag| format!(" flags {};", expression(flag))).collect();
    format!("type {types}{data};{flags}")
}

/// The types of the parts of a set's keys.
pub(super) fn types(set: &Value) -> Vec<String> {
    parts(&set["type"]).iter().map(expression).collect()
}

/// An array's values, or the one value.
pub(super) fn parts(value: &Value) -> &[Value] {
    let joined = value.get("concat").unwrap_or(value);
    joined.as_array().map_or_else(|| std::slice::from_ref(value), Vec::as_slice)
}

fn statement(statement: &Value) -> String {
    let Some((kind, content)) = only(statement) else { return statement.to_string() };
    match kind {
        "accept" | "drop" | "masquerade" if content.is_null() => kind.to_owned(),
        "match" => comparison(content),
        "dnat" if content.as_object().is_some_and(|parts| parts.len() == 2) => {
            format!("dnat {} to {}", expression(&content["family"]), expression(&content["addr"]))
        }
        _ => statement.to_string(),
    }
}

fn comparison(content: &Value) -> String {
    let (left, right) = (expression(&content["left"]), expression(&content["right"]));
    match content["op"].as_str() {
        // Some of the flags; `==` would be exactly those.
        Some("in") => format!("{left} {right}"),
        Some("==") if content["left"].get("ct").is_none() => format!("{left} {right}"),
        Some(operator) => format!("{left} {operator} {right}"),
        None => content.to_string(),
    }
}

/// A value, or something that is looked up.
pub(super) fn expression(value: &Value) -> String {
    let list = |values: &Value, separator: &str| {
        let values = values.as_array().map(Vec::as_slice).unwrap_or_default();
        values.iter().map(expression).collect::<Vec<_>>().join(separator)
    };
    match value {
        Value::String(text) => return text.clone(),
        Value::Array(_) => return list(value, ","),
        _ => {}
    }
    let Some((kind, content)) = only(value) else { return value.to_string() };
    let part = |name: &str| expression(&content[name]);
    match kind {
        "concat" => list(content, " . "),
        "set" => format!("{{ {} }}", list(content, ", ")),
        "prefix" => format!("{}/{}", part("addr"), part("len")),
        "payload" => format!("{} {}", part("protocol"), part("field")),
        "meta" if part("key").ends_with("ifname") => part("key"),
        "meta" => format!("meta {}", part("key")),
        "ct" if content.get("dir").is_none() => format!("ct {}", part("key")),
        "fib" => format!("fib {} {}", list(&content["flags"], " . "), part("result")),
        "map" => format!("{} map {}", part("key"), part("data")),
        _ => value.to_string(),
    }
}

/// The one field of an object.
fn only(value: &Value) -> Option<(&str, &Value)> {
    let mut fields = value.as_object()?.iter();
    let (name, content) = fields.next()?;
    fields.next().is_none().then_some((name, content))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn rules_are_rendered() {
        let check = |expr: Value, expected: &str| assert_eq!(rule(&json!({ "expr": expr })), expected);
        let iifname = json!({ "meta": { "key": "iifname" } });
        let daddr = json!({ "payload": { "protocol": "ip", "field": "daddr" } });
        let own = json!({ "match": {
            "op": "!=", "left": { "concat": [iifname, daddr] }, "right": "@own4",
        } });
        check(json!([own, { "drop": null }]), "iifname . ip daddr != @own4 drop");
        let state = |op: &str| {
            json!([{ "match": {
                "op": op, "left": { "ct": { "key": "state" } }, "right": ["established", "related"],
            } }])
        };
        check(state("in"), "ct state established,related");
        check(state("=="), "ct state == established,related");
        let local = json!({ "match": {
            "op": "==", "left": { "fib": { "result": "type", "flags": ["daddr"] } }, "right": "local",
        } });
        let map = json!({ "map": { "key": { "meta": { "key": "l4proto" } }, "data": "@any4" } });
        let dnat = json!({ "dnat": { "family": "ip", "addr": map } });
        check(json!([local, dnat]), "fib daddr type local dnat ip to meta l4proto map @any4");
        let limited = json!({ "limit": { "rate": 1 } });
        check(json!([limited]), &limited.to_string());
        let flagged = json!({ "masquerade": { "flags": "random" } });
        check(json!([flagged]), &flagged.to_string());
    }

    #[test]
    fn declarations_are_rendered() {
        let listed = json!({ "type": ["ifname", "ipv4_addr"], "flags": ["interval"] });
        assert_eq!(set(&listed), "type ifname . ipv4_addr; flags interval;");
        let listed = json!({ "type": "inet_proto", "map": "ipv4_addr . inet_service" });
        assert_eq!(set(&listed), "type inet_proto : ipv4_addr . inet_service;");
        let listed = json!({ "type": "nat", "hook": "output", "prio": -100, "policy": "accept" });
        assert_eq!(chain(&listed), "type nat hook output priority -100; policy accept;");
    }
}

//! Init's environment (`man 7 environ`): `lxc.environment`.

use crate::error::{Error, Result};
use crate::lxc::config::reader::Reader;
use crate::lxc::config::render::Lines;
use crate::lxc::text;

/// The rule for the name of a variable.
pub(crate) fn check_variable(name: &str) -> Result<()> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    if name.is_empty() || !name.bytes().all(plain) || name.starts_with(|c: char| c.is_ascii_digit()) {
        return Err(Error::invalid(
            "environment variable",
            name,
            "must be letters, digits and '_', and must not begin with a digit",
        ));
    }
    Ok(())
}

/// Adds a variable, by the rules of [`LxcConfig::environment`](crate::lxc::LxcConfig::environment).
pub(crate) fn add(variables: &mut Vec<(String, String)>, name: String, value: String) -> Result<()> {
    check_variable(&name)?;
    if variables.iter().any(|(other, _)| *other == name) {
        return Err(Error::invalid("environment variable", name, "is given twice"));
    }
    text::check("environment variable's value", &value)?;
    variables.push((name, value));
    Ok(())
}

pub(crate) fn render(variables: &[(String, String)], lines: &mut Lines) {
    for (name, value) in variables {
        lines.add("lxc.environment", &format!("{name}={value}"));
    }
}

pub(crate) fn read(reader: &mut Reader<'_>) -> Vec<(String, String)> {
    let mut variables = Vec::new();
    for entry in reader.all("lxc.environment") {
        let Some(text) = reader.text(&entry) else { continue };
        let Some((name, value)) = text.split_once('=') else {
            reader.refuse(
                &entry,
                "must be NAME=VALUE: LXC would take the value from whoever starts the container",
            );
            continue;
        };
        let added = add(&mut variables, name.to_owned(), value.to_owned());
        reader.parsed(&entry, added);
    }
    variables
}
